"""PyTorch itself: an exported program (.pt2) run eagerly, in float; the same door for machines without ONNX Runtime."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoslim import packing
from autoslim.engine import Draft
from autoslim.errors import ExportFailed, Untreatable
from autoslim.inputs import Inputs, batch_size, call, split, tensors
from autoslim.runtimes import _dynamic


class Member:
    """torch.export to one file; no integer kernels, so bits stay at 32."""

    suffix = ".pt2"
    supports = {"bits": (32,)}

    def export(
        self,
        draft: Draft,
        example: Inputs,
        calibration: Sequence[Inputs],
        path: Path,
        dynamic_shapes: Any = None,
        original: tuple[Path, nn.Module] | None = None,
    ) -> tuple[str, ...]:
        """Write ``path``; returns notes. Raises ExportFailed if the model cannot be exported."""
        with torch.no_grad():
            outputs = packing.describe_outputs(call(draft.model, example))
        trouble: Exception | None = None
        for inputs, shapes, told in _dynamic.attempts(example, unnamed(dynamic_shapes)):
            args, kwargs = split(inputs)
            try:
                program = torch.export.export(draft.model, args, kwargs or None, dynamic_shapes=shapes)
            except Exception as error:  # the tracer raises whatever the traced code raises
                trouble = error
                continue
            fixed = _fixed_batch(program)
            if fixed and int(fixed) != batch_size(example):
                continue  # the axis was meant to be free and is not
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.pt2")
            torch.export.save(program, str(partial), extra_files={"autoslim.outputs": outputs, "autoslim.batch": fixed})
            partial.replace(path)
            return tuple(_dynamic.notes(fixed, told or dynamic_shapes is None))
        raise ExportFailed(f"torch_eager: export failed ({type(trouble).__name__}: {' '.join(str(trouble).split())[:200]})") from trouble

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        """A copy of the float program. Raises Untreatable for bits other than 32."""
        if any(bits != 32 for bits in draft.bits.values()):
            raise Untreatable("torch_eager: has no integer kernels; allowed bits: 32")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base, path)
        return ()

    def open(self, path: Path, threads: int) -> "EagerSession":
        return EagerSession(path, threads)


def unnamed(shapes: Any) -> Any:
    """Axes that torch.onnx.export takes by a name (a text) as torch.export does: free, and equal where the model says so."""
    return pytree.tree_map_only(str, lambda name: torch.export.Dim.DYNAMIC, shapes)


def _fixed_batch(program: torch.export.ExportedProgram) -> str:
    """The batch size that a program takes, "" where it takes any."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    first = next((value for name in program.graph_signature.user_inputs if isinstance(value := values.get(name), Tensor)), None)
    return str(first.shape[0]) if first is not None and first.dim() and isinstance(first.shape[0], int) else ""


class EagerSession:
    """One opened program. ``threads`` is PyTorch's setting for the whole process, so it is set at every run."""

    def __init__(self, path: Path, threads: int) -> None:
        extra = {"autoslim.outputs": "", "autoslim.batch": ""}
        try:
            self._module = torch.export.load(str(path), extra_files=extra).module()
        except Exception as error:  # zip, pickle and schema errors have no common base
            raise ExportFailed(f"torch_eager: the file does not open ({' '.join(str(error).split())[:200]})") from error
        self._outputs, self._batch, self._threads = extra["autoslim.outputs"], extra["autoslim.batch"], threads

    def run(self, inputs: Inputs) -> Any:
        """Outputs as forward() gives them."""
        if self._batch:
            return packing.in_batches(self._once, inputs, int(self._batch))
        return self._once(inputs)

    def _once(self, inputs: Inputs) -> Any:
        with torch.no_grad():
            return packing.restore_outputs(self._outputs, tensors(call(self._module, inputs)))

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        args, kwargs = split(inputs)

        def run() -> Any:
            before = torch.get_num_threads()
            torch.set_num_threads(self._threads)
            try:
                with torch.no_grad():
                    return self._module(*args, **kwargs)
            finally:
                torch.set_num_threads(before)

        return run
