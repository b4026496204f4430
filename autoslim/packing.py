"""How a shipped file remembers the task's form of inputs and outputs, so that it opens with nothing but itself."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim.inputs import Inputs, batch_size, rows, tensors


def describe_outputs(outputs: Any) -> str:
    """JSON of the tree that forward() returns; a tree of unknown classes (dataclasses of a library) is told as a dict."""
    if hasattr(outputs, "items") and not isinstance(outputs, dict):
        outputs = dict(outputs.items())
    leaves, spec = pytree.tree_flatten(outputs)
    where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    try:
        text = pytree.treespec_dumps(spec)
    except (NotImplementedError, TypeError, ValueError):
        text = ""
    return json.dumps({"spec": text, "leaves": len(leaves), "tensors": where})


def restore_outputs(text: str, values: list[Tensor]) -> Any:
    """The inverse: tensors in order -> what forward() returned (leaves that were no tensors are None)."""
    told = json.loads(text)
    if not told["spec"]:
        return values[0] if len(values) == 1 else tuple(values)
    leaves: list[Any] = [None] * told["leaves"]
    for index, value in zip(told["tensors"], values, strict=False):
        leaves[index] = value
    return pytree.tree_unflatten(leaves, pytree.treespec_loads(told["spec"]))


def in_batches(run: Callable[[Inputs], Any], inputs: Inputs, size: int) -> Any:
    """Run a file of fixed batch ``size`` on any number of samples, a piece at a time, and join the outputs."""
    total = batch_size(inputs)
    if total == size:
        return run(inputs)
    pieces = []
    for start in range(0, total, size):
        piece = rows(inputs, start, start + size)
        there = batch_size(piece)
        pieces.append(rows(run(filled(piece, size)), 0, there))
    return pytree.tree_map(lambda *leaves: torch.cat(leaves) if is_batch(leaves[0]) else leaves[0], *pieces)


def filled(inputs: Inputs, size: int) -> Inputs:
    """A short batch brought to ``size`` by repeating its last sample."""
    missing = size - batch_size(inputs)
    if not missing:
        return inputs
    return pytree.tree_map(lambda leaf: torch.cat([leaf, leaf[-1:].expand(missing, *leaf.shape[1:])]) if is_batch(leaf) else leaf, inputs)


def is_batch(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def twice(example: Inputs) -> Inputs:
    """A batch of two from a batch of one, because tracers take an axis of length one for a constant."""
    size = batch_size(example)
    return pytree.tree_map(
        lambda leaf: torch.cat([leaf, leaf]) if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size else leaf, example
    )


def batch_axes(example: Inputs, dim: Any) -> Any:
    """A tree like ``example`` that marks the first axis of every batched tensor with ``dim``."""
    size = batch_size(example)
    return pytree.tree_map(lambda leaf: {0: dim} if isinstance(leaf, Tensor) and leaf.dim() and leaf.shape[0] == size else None, example)


def numpy_feed(names: list[str], inputs: Inputs) -> dict[str, Any]:
    """{graph input: array}: by name where a dict of tensors has all the names, else in the order of the call."""
    if isinstance(inputs, Mapping) and all(isinstance(inputs.get(name), Tensor) for name in names):
        return {name: array(inputs[name]) for name in names}
    return {name: array(value) for name, value in zip(names, tensors(inputs), strict=False)}


def array(value: Tensor) -> Any:
    return value.detach().cpu().contiguous().numpy()
