"""ExecuTorch with XNNPACK (extra executorch): a .pte file as phones run it, timed on this CPU, in float."""

import json
import os
import shutil
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.extension.pybindings.portable_lib import _threadpool_get_thread_count, _unsafe_reset_threadpool
from executorch.runtime import Runtime
from torch import Tensor, nn

from autoslim import packing
from autoslim.engine import Draft
from autoslim.errors import ExportFailed
from autoslim.inputs import Inputs, batch_size, rows
from autoslim.interfaces import BYTES_ALONE
from autoslim.runtimes import _program

NAME = "executorch_xnnpack"
#: the method of a file that gives what it remembers, as bytes of JSON
FACTS = "autoslim_facts"
SHAPES = "the file takes the shapes of the example, DYNAMIC_SHAPES or not, since its memory is planned ahead; other batches run in pieces"


class Member:
    """torch.export, then ExecuTorch's lowering, its operators given to XNNPACK where that has them.

    A file takes the shapes of the task's example, since its memory is planned ahead; other batches run in pieces. No integer kernels here,
    although XNNPACK has some: bits stay at 32. The file is the same that a phone's ExecuTorch opens; times are this processor's.
    """

    suffix = ".pte"
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
        found = next(_program.traced(NAME, draft, example, dynamic_shapes, free=False))
        try:
            data = lowered(found.program, found.facts)
        except Exception as error:  # the lowering raises whatever its passes raise
            raise _program.failed(NAME, error) from error
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.replace(path)
        return (SHAPES,)

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        """A copy of the float file. Raises Untreatable for bits other than 32."""
        _program.refuse_bits(NAME, draft)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base, path)
        return ()

    def open(self, path: Path, threads: int) -> "MobileSession":
        return MobileSession(path, threads)


def lowered(program: torch.export.ExportedProgram, facts: dict[str, str]) -> bytes:
    """The .pte of a program."""
    note = torch.tensor(list(json.dumps({**facts, _program.INPUTS: _program.described(program)}).encode()), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods={FACTS: note})
        return edge.to_executorch().buffer


class Threads:
    """ExecuTorch's one pool of threads. Loaded programs hold on to it, so all of them are let go before it is made anew."""

    def __init__(self) -> None:
        self.sessions: weakref.WeakSet[MobileSession] = weakref.WeakSet()

    def use(self, count: int) -> None:
        if _threadpool_get_thread_count() == count:
            return
        for session in self.sessions:
            session.forget()
        _unsafe_reset_threadpool(count)


THREADS = Threads()


class MobileSession:
    """One opened file."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._threads, self._method = path, threads, None
        try:
            facts = bytes(Runtime.get().load_program(str(path)).load_method(FACTS).execute([])[0].tolist())
            self._facts = json.loads(facts)
            self._loaded()
        except Exception as error:  # the loader raises RuntimeError for everything
            raise ExportFailed(f"{NAME}: {path} does not open ({' '.join(str(error).split())[:200]})") from error

    def forget(self) -> None:
        """Let the program go; it is loaded again at its next run."""
        self._program = self._method = None

    def _loaded(self) -> Any:
        THREADS.use(self._threads)
        if self._method is None:
            self._program = Runtime.get().load_program(str(self._path))
            self._method = self._program.load_method("forward")
            THREADS.sessions.add(self)
        return self._method

    def run(self, inputs: Inputs) -> Any:
        """Outputs as forward() gives them."""
        fixed = self._facts[_program.BATCH]
        return packing.in_batches(self._once, inputs, int(fixed)) if fixed else self._once(inputs)

    def _once(self, inputs: Inputs) -> Any:
        return _program.restored(self._facts, self._loaded().execute(self._flat(inputs)))

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        """A run on any number of samples: as many runs of the file as it takes."""
        size = int(self._facts[_program.BATCH] or batch_size(inputs))
        parts = [packing.filled(rows(inputs, start, start + size), size) for start in range(0, batch_size(inputs), size)]
        pieces = [self._flat(part) for part in parts]
        if len(pieces) == 1:
            return lambda: self._loaded().execute(pieces[0])
        whole = batch_size(inputs)

        def run() -> list[Tensor]:
            found = zip(*(self._loaded().execute(piece) for piece in pieces), strict=True)
            return [torch.cat(own)[:whole] for own in found]

        return run

    def _flat(self, inputs: Inputs) -> list[Tensor]:
        return _program.flat(NAME, self._facts, inputs)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the file's own shapes, for timing a file that comes without a task."""
        return _program.example(self._facts)
