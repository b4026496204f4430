"""Where a user's task lives: a file, an installed entry point or an importable module."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from autoslim.crumbs import running
from autoslim.errors import UserError


def find(source: str) -> tuple[Any, str]:
    """(the task's module, its name). Raises UserError with one line for what cannot be found or loaded."""
    if source.endswith(".py") or "/" in source:
        return _from_file(Path(source)), Path(source).stem
    for entry in importlib.metadata.entry_points(group="autoslim.tasks"):
        if entry.name == source:
            return _loaded(source, entry.load), source
    return _loaded(source, lambda: importlib.import_module(source)), source.rsplit(".", 1)[-1]


def _loaded(source: str, load: Callable[[], Any]) -> Any:
    """What ``load`` gives, which runs the task's module. Raises UserError where it does not end well."""
    try:
        with running(f"task {source}: its module"):
            return load()
    except ModuleNotFoundError as error:
        if error.name and not source.startswith(error.name):
            raise UserError(f"task {source}: needs the package {error.name!r}, which is not installed") from None
        raise UserError(f"--task: got {source!r}, allowed: a path to a .py file, an importable module, or an installed task") from None
    except (Exception, SystemExit) as error:
        raise UserError(f"task {source}: cannot be loaded: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise UserError(f"--task: no file {str(path)!r}")
    name = f"autoslim_task_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the model's classes can be pickled and torch.export can find them
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # a task may import files beside it, as a script may
    try:
        with running(f"task {path.name}: its file"):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        told = " ".join(str(error).split())
        raise UserError(f"task {path.name}: cannot be loaded, line {line_of(error, path)}: {type(error).__name__}: {told}") from error
    return module


def line_of(error: BaseException, path: Path) -> Any:
    """The latest line of the file ``path`` that an error came through; "?" where it came through none."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else "?"
