"""How a distillation learns, as knobs: the optimizer, how its rate changes, how many samples at once, dropout."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.settings import STABLE, fork

MOMENTUM = 0.9
#: a gap from which networks learn at the whole rate
FAR = 0.125
#: steps of the warm-up of a STABLE schedule
WARM_UP = 100


def optimizer(name: str, parameters: Sequence[Tensor], lr: float, decay: float) -> torch.optim.Optimizer:
    """adam with decoupled weight decay (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101), sgd with Nesterov's momentum 0.9, or
    rmsprop. ``decay`` acts on weights of two axes and more."""
    groups = [
        {"params": [one for one in parameters if one.dim() > 1], "weight_decay": decay},
        {"params": [one for one in parameters if one.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=MOMENTUM, nesterov=True)
    return torch.optim.RMSprop(groups, lr=lr) if name == "rmsprop" else torch.optim.AdamW(groups, lr=lr)


def eased(name: str, gap: float) -> float:
    """The share of the rate for a network whose gap to the original is ``gap``. Steps of adam and rmsprop are as long as the rate, however small the
    gradients are, and near an optimum a gap grows as the square of the distance: so the rate falls with its root. sgd's steps shrink by
    themselves."""
    return 1.0 if name == "sgd" or not gap < FAR else math.sqrt(max(gap, 0.0) / FAR)


def relative(parameters: Sequence[Tensor], lr: float) -> torch.optim.Optimizer:
    """Adam whose rate is a share of each tensor's root mean square, so that small weights and large ones move alike (as the layer-wise
    rates of You et al. 2017, https://arxiv.org/abs/1708.03888)."""
    return torch.optim.Adam([{"params": [one], "lr": lr * size_of(one)} for one in parameters])


def rescale(optimizer: torch.optim.Optimizer, schedule: Any, parameter: Tensor, by: float) -> None:
    """Have a parameter of :func:`relative`, whose values are others now, learn ``by`` times as fast as before, without the moments of the
    values it had."""
    for place, group in enumerate(optimizer.param_groups):
        if group["params"][0] is parameter:
            for name in ("lr", "initial_lr"):
                group[name] *= by
            schedule.base_lrs[place] *= by
            optimizer.state.pop(parameter, None)


def size_of(parameter: Tensor) -> float:
    """Root mean square, at least 0.001."""
    return max(float(parameter.detach().square().mean().sqrt()), 1e-3)


def pace(schedule: str, step: int, total: int) -> float:
    """The share of the rate at ``step``, from 0, of ``total``: a warm-up over a sixth, then a cosine, a straight line to zero, or level.
    STABLE: a warm-up that does not depend on ``total``, level up to :func:`settings.fork`, then 1 less the root of the share of the fall that is over."""
    if schedule == STABLE:
        over = max(0, step - fork(total)) / max(1, total - fork(total))
        return min((step + 1) / WARM_UP, 1 - math.sqrt(over))
    warm_up = max(1, total // 6)
    done = max(0, step - warm_up) / max(1, total - warm_up)
    later = {"cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done, "constant": 1.0}[schedule]
    return min((step + 1) / warm_up, later)


@contextmanager
def dropout(model: nn.Module, share: float, seed: int) -> Iterator[None]:
    """Within it, linear layers read their inputs with ``share`` of the numbers zero and the others scaled up (Srivastava et al. 2014,
    https://jmlr.org/papers/v15/srivastava14a.html); other sources of chance are left as they were."""
    generator = torch.Generator().manual_seed(seed)

    def hook(module: nn.Module, args: tuple) -> Any:
        kept = torch.rand(args[0].shape, generator=generator) >= share
        return (args[0] * kept.to(args[0].dtype) / (1 - share), *args[1:])

    layers = [module for module in model.modules() if isinstance(module, nn.Linear)] if share else []
    handles = [layer.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


__all__ = ["dropout", "optimizer", "pace", "relative", "rescale", "size_of"]
