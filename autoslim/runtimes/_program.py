"""A draft as an exported program (torch.export), for the members whose files hold one or are compiled from one."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim import packing
from autoslim.engine import Draft
from autoslim.errors import ExportFailed, Untreatable
from autoslim.inputs import Inputs, batch_size, call, split, tensors
from autoslim.runtimes import _dynamic

#: what a file remembers: the form of the outputs, the batch that it takes ("" for any), and of each input [type, shape, name or None], where
#: None is a free axis
OUTPUTS, BATCH, INPUTS = "autoslim.outputs", "autoslim.batch", "autoslim.inputs"


@dataclass(frozen=True)
class Traced:
    """A program, what its file must remember of it, and what a user should know."""

    program: torch.export.ExportedProgram
    facts: dict[str, str]
    notes: tuple[str, ...]


def traced(member: str, draft: Draft, example: Inputs, shapes: Any, free: bool = True) -> Iterator[Traced]:
    """What can be traced, with the freest axes first; the caller takes the first that serves. Without ``free`` the example's shapes alone.
    Raises ExportFailed, which names ``member``, where nothing can."""
    with torch.no_grad():
        outputs = packing.describe_outputs(call(draft.model, example))
    trouble: Exception | None = None
    for inputs, axes, told in _dynamic.attempts(example, unnamed(shapes)) if free else [(example, None, False)]:
        args, kwargs = split(inputs)
        try:
            program = torch.export.export(draft.model, args, kwargs or None, dynamic_shapes=axes)
        except Exception as error:  # the tracer raises whatever the traced code raises
            trouble = error
            continue
        fixed = fixed_batch(program)
        if fixed and int(fixed) != batch_size(example):
            continue  # the axis was meant to be free and is not
        yield Traced(program, {OUTPUTS: outputs, BATCH: fixed}, tuple(_dynamic.notes(fixed, told or shapes is None)))
    if trouble is not None:
        raise failed(member, trouble) from trouble


def described(program: torch.export.ExportedProgram) -> str:
    """JSON of what INPUTS holds of a program."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    given, named = program.example_inputs
    order = [None] * len(pytree.tree_leaves(given)) + [name for name, value in named.items() for _ in pytree.tree_leaves(value)]
    found = [(values.get(node), name) for node, name in zip(program.graph_signature.user_inputs, order, strict=True)]
    return json.dumps(
        [
            [str(one.dtype).removeprefix("torch."), [axis if isinstance(axis, int) else None for axis in one.shape], name]
            for one, name in found
            if isinstance(one, Tensor)
        ]
    )


def flat(member: str, facts: Mapping[str, str], inputs: Inputs) -> list[Tensor]:
    """The tensors of a call in the order of the traced one, their numbers in order. Raises ValueError for tensors that the file does not
    take: compiled kernels look at no shape and would read beyond the end."""
    takes = [(getattr(torch, kind), axes, name) for kind, axes, name in json.loads(facts[INPUTS])]
    args, kwargs = split(inputs)
    names = list(dict.fromkeys(name for _, _, name in takes if name in kwargs))
    found = [one.detach().contiguous() for one in tensors((args, [kwargs[name] for name in names]))]
    fits = len(found) == len(takes) and all(
        one.dtype == kind and one.dim() == len(axes) and all(axis in (None, size) for axis, size in zip(axes, one.shape, strict=True))
        for one, (kind, axes, _) in zip(found, takes, strict=True)
    )
    if not fits:
        given = [(one.dtype, list(one.shape)) for one in found]
        raise ValueError(f"{member}: got {given}, allowed (None is any size): {[take[:2] for take in takes]}")
    return found


def example(facts: Mapping[str, str]) -> tuple[Tensor, ...]:
    """Inputs of a file's own shapes (free axes 1): normal noise for floats, zeros else, which are valid indices whatever they index."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(getattr(torch, kind), [axis or 1 for axis in axes]) for kind, axes, _ in json.loads(facts[INPUTS])]
    return tuple(
        torch.randn(shape, generator=generator).to(kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)
        for kind, shape in shapes
    )


def failed(member: str, error: Exception) -> ExportFailed:
    """One line that names the member and what was raised."""
    return ExportFailed(f"{member}: export failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})")


def refuse_bits(member: str, draft: Draft) -> None:
    """Raise Untreatable for bits other than 32."""
    if any(bits != 32 for bits in draft.bits.values()):
        raise Untreatable(f"{member}: has no integer kernels; allowed bits: 32")


def unnamed(shapes: Any) -> Any:
    """Axes that torch.onnx.export takes by a name (a text) as torch.export does: free, and equal where the model says so."""
    return pytree.tree_map_only(str, lambda name: torch.export.Dim.DYNAMIC, shapes)


def fixed_batch(program: torch.export.ExportedProgram) -> str:
    """The batch size that a program takes, "" where it takes any."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    first = next((value for name in program.graph_signature.user_inputs if isinstance(value := values.get(name), Tensor)), None)
    return str(first.shape[0]) if first is not None and first.dim() and isinstance(first.shape[0], int) else ""


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch's threads, a setting of the whole process, for one run. It is touched only where it differs: setting it, even to what it is,
    empties oneDNN's cache of prepared kernels."""
    before = torch.get_num_threads()
    if before == count:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def restored(facts: dict[str, str], values: Sequence[Tensor]) -> Any:
    """Outputs as forward() gave them."""
    return packing.restore_outputs(facts[OUTPUTS], list(values))
