"""How inputs and outputs travel: a tensor, a tuple (positional) or a dict (keyword arguments of forward)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs = Tensor | tuple | list | Mapping[str, Any]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """``model`` on ``inputs`` as the task contract defines them."""
    args, kwargs = split(inputs)
    return model(*args, **kwargs)


def split(inputs: Inputs) -> tuple[tuple, dict[str, Any]]:
    """(positional, keyword) arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def tensors(value: Any) -> list[Tensor]:
    """Every tensor in ``value``, in the order of the tree."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def batch_size(inputs: Inputs) -> int:
    """Length of the first tensor's first axis; 1 where there is none."""
    first = next(iter(tensors(inputs)), None)
    return 1 if first is None or first.dim() == 0 else int(first.shape[0])


def shapes(value: Any) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in tensors(value)]


def rows(inputs: Any, start: int, stop: int, size: int | None = None) -> Any:
    """The samples [start, stop) of a batch of ``size`` (default: by its first tensor): every tensor whose first axis is the
    batch is sliced, and so is a list with one item per sample."""
    size = batch_size(inputs) if size is None else size
    if isinstance(inputs, list) and len(inputs) == size:
        return inputs[start:stop]

    def cut(leaf: Any) -> Any:
        return leaf[start:stop] if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size else leaf

    return pytree.tree_map(cut, inputs)


def close(left: Any, right: Any, tolerance: float) -> bool:
    """Same shapes and a relative difference (2-norm over all tensors) of at most ``tolerance``."""
    a, b = tensors(left), tensors(right)
    return [x.shape for x in a] == [x.shape for x in b] and distance(a, b) <= tolerance


def distance(left: Any, right: Any) -> float:
    """Relative 2-norm of the difference over all floating tensors; 0 where there is none."""
    pairs = [(a.double(), b.double()) for a, b in zip(tensors(left), tensors(right), strict=True) if a.is_floating_point()]
    if not pairs:
        return 0.0
    error = torch.stack([(a - b).square().sum() for a, b in pairs]).sum()
    scale = torch.stack([b.square().sum() for _, b in pairs]).sum()
    return float((error / scale.clamp_min(1e-20)).sqrt())
