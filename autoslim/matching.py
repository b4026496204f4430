"""Mean and variance of layer norms matched to the original's: what batch-norm re-estimation is to networks with batch norms.

A layer norm has no statistics that could be estimated anew. Instead its affine map takes up, channel by channel, the difference between
the mean and the standard deviation that its outputs have in the compressed network and had in the original: the statistics correction that
Frantar & Alistarh 2022 (OBC, https://arxiv.org/abs/2208.11580) apply to Transformers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.hooks import watched
from autoslim.inputs import Inputs
from autoslim.structure import Axis

Statistics = tuple[Tensor, Tensor]  # mean and standard deviation of each channel, (channels,)
#: scales are kept within this factor: a channel that hardly moves on a few batches tells nothing about its spread
FACTOR = 4.0


def fits(module: nn.Module) -> bool:
    """Layer norms over one axis with scale and shift."""
    return isinstance(module, nn.LayerNorm) and len(module.normalized_shape) == 1 and module.weight is not None and module.bias is not None


def table(module: nn.Module, output: Tensor) -> tuple[Tensor, int] | None:
    """(positions, channels) of a norm's output, and the axis of its channels: the last, or the second in norms over images."""
    size = module.normalized_shape[0]
    for axis in (output.dim() - 1, 1):
        if axis < output.dim() and output.shape[axis] == size:
            return output.movedim(axis, -1).reshape(-1, size), axis
    return None


def statistics(model: nn.Module, batches: Sequence[Inputs], pause: Callable[[], None] = lambda: None) -> dict[str, Statistics]:
    """{layer norm: mean and standard deviation of its outputs} over ``batches``."""
    sums: dict[str, list[Any]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found = table(module, output)
            if found is not None:
                rows = found[0].double()
                total = sums.setdefault(name, [0.0, 0.0, 0])
                total[0], total[1], total[2] = total[0] + rows.sum(0), total[1] + rows.square().sum(0), total[2] + len(rows)

        return hook

    watched(model, batches, [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if fits(module)], pause)
    return {name: (first / n, (second / n - (first / n).square()).clamp_min(0).sqrt()) for name, (first, second, n) in sums.items()}


def match(
    model: nn.Module,
    wanted: Mapping[str, Statistics],
    kept: Mapping[tuple[str, Axis], Tensor],
    batches: Sequence[Inputs],
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Fold scale and shift into each layer norm of ``model``, in place and in the order of execution, so that later norms see what
    earlier ones now give. ``wanted``: :func:`statistics` of the original; ``kept``: which of its channels are left. Batch i of the
    batches moves a norm by 1 / i of the way that it asks for, which averages them."""
    for number, inputs in enumerate(batches, 1):
        handles = [
            module.register_forward_hook(folder(wanted[name], kept.get((name, "out")), 1.0 / number))
            for name, module in model.named_modules()
            if fits(module) and name in wanted
        ]
        watched(model, [inputs], handles, pause)


def folder(wanted: Statistics, kept: Tensor | None, rate: float) -> Any:
    """A hook that moves a norm's affine map towards the wanted statistics and hands the corrected output on."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        mean, spread = wanted if kept is None else (wanted[0][kept], wanted[1][kept])
        found = table(module, output)
        if found is None or len(mean) != module.normalized_shape[0]:
            return None
        rows, axis = found
        own, deviation = rows.double().mean(0), rows.double().std(0, correction=0)
        scale = torch.where(deviation > 1e-6, spread / deviation.clamp_min(1e-6), torch.ones_like(spread)).clamp(1 / FACTOR, FACTOR)
        scale = 1 + rate * (scale - 1)
        shift = rate * (mean - own) + own - scale * own  # the mean moves by the rate, whatever the scale does to it
        scale, shift = scale.to(module.weight.dtype), shift.to(module.weight.dtype)
        module.weight.data.mul_(scale)
        module.bias.data.mul_(scale).add_(shift)
        shape = [1] * output.dim()
        shape[axis] = len(scale)
        return output * scale.view(shape) + shift.view(shape)

    return hook
