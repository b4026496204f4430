"""Attention maps as attention computes them: the share of each position that every other one gets, as the mean over heads.

They are known where attention tells them: nn.MultiheadAttention, which is asked to, and modules that return them beside their output, as those
of transformers do with eager attention. Distilled as MiniLM does (Wang et al. 2020, https://arxiv.org/abs/2002.10957, eq. 3), but for the
mean over heads: heads may have been cut.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim.inputs import Inputs, call
from autoslim.separate import Attention

#: attention that tells its map where it is asked to
OWN = (nn.MultiheadAttention, Attention)
SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)
#: how far the shares of a row may be from 1 in sum, and the least share whose logarithm is taken
OFF, LEAST = 1e-3, 1e-8


@contextmanager
def watched(model: nn.Module, names: Sequence[str] | None = None) -> Iterator[dict[str, Tensor]]:
    """Within it, the maps of the named modules, or of all, are collected as they run: {name: (samples, queries, keys)}; a tensor that
    several modules hand on belongs to the innermost."""
    found: dict[str, Tensor] = {}
    known: list[Tensor] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            weights = weights_in(module, output)
            if weights is not None and not any(weights is one for one in known):
                known.append(weights)
                found[name] = weights if weights.dim() == 3 else weights.mean(1)

        return hook

    modules = [(name, module) for name, module in model.named_modules() if names is None or name in names]
    handles = [module.register_forward_hook(watch(name)) for name, module in modules]
    handles += [module.register_forward_pre_hook(asked, with_kwargs=True) for _, module in modules if isinstance(module, OWN)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def asked(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """The arguments of PyTorch's attention such that it returns its mean map."""
    told = dict(SIGNATURE.bind(module, *args, **kwargs).arguments)
    told.pop("self")
    return (), told | {"need_weights": True, "average_attn_weights": True}


def weights_in(module: nn.Module, output: Any) -> Tensor | None:
    """What an attention module returns beside its output: (samples, queries, keys) of PyTorch's, (samples, heads, queries, keys) of others."""
    beside = output[1] if isinstance(output, tuple) and len(output) > 1 else None
    rank = 3 if isinstance(module, OWN) else 4
    return beside if isinstance(beside, Tensor) and beside.dim() == rank and beside.is_floating_point() else None


def shared(student: nn.Module, teacher: nn.Module, inputs: Inputs) -> list[str]:
    """The modules whose maps both networks tell, over the same positions."""
    with torch.no_grad(), watched(student) as mine, watched(teacher) as theirs:
        call(student, inputs)
        call(teacher, inputs)
    return [
        name for name, one in mine.items() if name in theirs and one.shape == theirs[name].shape and all(map(is_map, (one, theirs[name])))
    ]


def is_map(found: Tensor) -> bool:
    """Whether rows are shares: not negative, 1 in sum."""
    return bool((found >= 0).all()) and bool(((found.float().sum(-1) - 1).abs() < OFF).all())


def divergence(mine: Tensor, theirs: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the original's rows from the student's, (samples, queries, keys) each; its mean over rows, in nats."""
    return F.kl_div(mine.float().clamp_min(LEAST).log(), theirs.float(), reduction="none").sum(-1).mean()
