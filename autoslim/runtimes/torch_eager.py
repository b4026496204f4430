"""PyTorch itself: an exported program (.pt2) run eagerly, in float; the same door for machines without ONNX Runtime."""

import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoslim import packing
from autoslim.engine import Draft
from autoslim.errors import ExportFailed
from autoslim.inputs import Inputs, call, split, tensors
from autoslim.interfaces import BYTES_ALONE
from autoslim.runtimes import _program


class Member:
    """torch.export to one file; no integer kernels, so bits stay at 32."""

    suffix = ".pt2"
    supports = {"bits": (32,), "qat": (32,)}
    accelerates = {**BYTES_ALONE, "bits": (), "qat": ()}

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
        found = next(_program.traced("torch_eager", draft, example, dynamic_shapes))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.pt2")
        torch.export.save(found.program, str(partial), extra_files=found.facts)
        partial.replace(path)
        return found.notes

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        """A copy of the float program. Raises Untreatable for bits other than 32."""
        _program.refuse_bits("torch_eager", draft)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base, path)
        return ()

    def open(self, path: Path, threads: int) -> "EagerSession":
        return EagerSession(path, threads)


class EagerSession:
    """One opened program. ``threads`` is PyTorch's setting for the whole process, so it is set at every run."""

    def __init__(self, path: Path, threads: int) -> None:
        self._facts = {_program.OUTPUTS: "", _program.BATCH: ""}
        if not zipfile.is_zipfile(path):  # torch would print a trace of it
            raise ExportFailed(f"torch_eager: {path} does not open (not the archive that torch.export.save writes)")
        try:
            self._module = torch.export.load(str(path), extra_files=self._facts).module()
        except Exception as error:  # zip, pickle and schema errors have no common base
            raise ExportFailed(f"torch_eager: {path} does not open ({' '.join(str(error).split())[:200]})") from error
        self._threads = threads

    def run(self, inputs: Inputs) -> Any:
        """Outputs as forward() gives them."""
        fixed = self._facts[_program.BATCH]
        return packing.in_batches(self._once, inputs, int(fixed)) if fixed else self._once(inputs)

    def _once(self, inputs: Inputs) -> Any:
        with torch.no_grad():
            return _program.restored(self._facts, tensors(call(self._module, inputs)))

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        args, kwargs = split(inputs)

        def run() -> Any:
            with _program.threads(self._threads), torch.no_grad():
                return self._module(*args, **kwargs)

        return run
