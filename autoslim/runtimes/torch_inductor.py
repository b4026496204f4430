"""PyTorch's compiler (Inductor, ahead of time): a .pt2 package with kernels that a C++ compiler made for this processor, in float."""

import contextlib
import io
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._inductor.package  # at import: what it loads is no memory of a file
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoslim import packing
from autoslim.engine import Draft
from autoslim.errors import ExportFailed, UserError
from autoslim.inputs import Inputs
from autoslim.interfaces import BYTES_ALONE
from autoslim.runtimes import _program

NAME = "torch_inductor"
#: compilers that are looked for where the environment variable CXX names none, as Inductor does
COMPILER = "g++"
#: weights laid out for the kernels ahead of time; the number of threads is that of each run, not that of the compilation; no tables of source
#: lines in the file (a third of a small one); headers are not compiled ahead, which takes a minute once and saves nothing
SETTINGS = {
    "freezing": True,
    "cpp.dynamic_threads": True,
    "aot_inductor.package": True,
    "aot_inductor.enable_line_tables": False,
    "aot_inductor.precompile_headers": False,
}


class Member:
    """torch.export, then AOTInductor: Inductor (Ansel et al. 2024, PyTorch 2, https://doi.org/10.1145/3620665.3640366, section 4) fuses
    operators into C++ kernels, which are compiled into a library inside the package.

    No integer kernels: bits stay at 32. Writing a file needs a C++ compiler and takes seconds to minutes; opening one needs none. A file
    runs on processors that have the vector instructions of this one, and with the version of PyTorch that made it. It holds code:
    open only files that you trust.
    """

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
        """Write ``path``; returns notes. Raises ExportFailed if the model cannot be compiled, UserError where there is no compiler."""
        refuse_without_compiler()
        trouble: Exception | None = None
        for found in _program.traced(NAME, draft, dense(example), dynamic_shapes):
            try:
                write(found, path)
                return found.notes
            except Exception as error:  # Inductor raises whatever its passes and the compiler raise
                trouble = error
        raise _program.failed(NAME, trouble) from trouble

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        """A copy of the float file. Raises Untreatable for bits other than 32."""
        _program.refuse_bits(NAME, draft)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base, path)
        return ()

    def open(self, path: Path, threads: int) -> "CompiledSession":
        return CompiledSession(path, threads)


def refuse_without_compiler() -> None:
    """Raise UserError where no C++ compiler is found."""
    asked = os.environ.get("CXX", COMPILER)
    if shutil.which(asked.split()[0] if asked.split() else COMPILER) is None:
        raise UserError(
            f"runtimes {NAME}: needs a C++ compiler, got {asked!r}, which is not found; apt-get install g++, or name one in the "
            "environment variable CXX"
        )


def write(found: _program.Traced, path: Path) -> None:
    """Compile a program into one package at ``path``; what the compiler leaves beside it is removed."""
    program = found.program
    args, kwargs = program.example_inputs
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="autoslim-inductor-") as folder, quiet(), torch.no_grad():
        told = {
            **SETTINGS,
            "aot_inductor.output_path": f"{folder}/",
            "aot_inductor.metadata": {**found.facts, _program.INPUTS: _program.described(program)},
        }
        files = torch._inductor.aot_compile(program.module(check_guards=False), args, kwargs, options=told)
        partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.pt2")
        torch._inductor.package.package_aoti(str(partial), [file for file in files if not file.endswith(".cpp")])
        partial.replace(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inductor's remarks on its own passes are not for the user."""
    loggers = [logging.getLogger(name) for name in ("torch._inductor", "torch.export", "torch.fx", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def dense(inputs: Inputs) -> Inputs:
    """Inputs whose numbers lie in order: compiled kernels read them where they lay in the example."""
    return pytree.tree_map_only(Tensor, lambda leaf: leaf.detach().contiguous(), inputs)


class CompiledSession:
    """One opened package, loaded into this process; a copy of its library lies in the temporary folder meanwhile."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            with quiet():
                self._model = torch._inductor.aoti_load_package(str(path))
            self._facts = self._model.get_metadata()
        except Exception as error:  # the loader raises RuntimeError for everything, zip and JSON readers their own
            raise ExportFailed(f"{NAME}: {path} does not open ({' '.join(str(error).split())[:200]})") from error
        self._threads = threads

    def run(self, inputs: Inputs) -> Any:
        """Outputs as forward() gives them."""
        fixed = self._facts[_program.BATCH]
        return packing.in_batches(self._once, inputs, int(fixed)) if fixed else self._once(inputs)

    def _once(self, inputs: Inputs) -> Any:
        return _program.restored(self._facts, self._model.loader.boxed_run(self._flat(inputs)))

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        flat, call = self._flat(inputs), self._model.loader.boxed_run

        def run() -> Any:
            with _program.threads(self._threads):
                return call(list(flat))  # the call empties its list

        return run

    def _flat(self, inputs: Inputs) -> list[Tensor]:
        return _program.flat(NAME, self._facts, inputs)

    def example(self) -> tuple[Tensor, ...]:
        """Inputs of the file's own shapes, for timing a file that comes without a task."""
        return _program.example(self._facts)
