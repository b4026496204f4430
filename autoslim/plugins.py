"""Doors are folders: a member's file name is its name. Nothing is registered by hand, nothing loads before it is named."""

import ast
import importlib
import inspect
from pathlib import Path
from typing import Any

from autoslim.errors import UserError

DOORS = ("techniques", "criteria", "rankings", "coders", "runtimes", "strategies", "executors", "charts", "checks")
HERE = Path(__file__).parent


def names(door: str) -> tuple[str, ...]:
    """The members of a door, by file name, sorted; nothing is imported."""
    return tuple(sorted(path.stem for path in (HERE / door).glob("*.py") if not path.stem.startswith("_")))


def summary(door: str, name: str) -> str:
    """First line of a member's docstring, read without importing it."""
    text = ast.get_docstring(ast.parse((HERE / door / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return text.splitlines()[0] if text else ""


def find(door: str, name: str) -> Any:
    """The member's class; what stands after a colon is an argument, not the name. Raises UserError for an unknown name or a library that is not installed."""
    name = name.partition(":")[0]
    if name not in names(door):
        raise UserError(f"{door}: got {name!r}, allowed: {', '.join(names(door))}")
    try:
        return importlib.import_module(f"autoslim.{door}.{name}").Member
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("autoslim"):
            raise
        raise UserError(f"{door} {name}: needs the package {error.name!r}, which is not installed; pip install {error.name}") from None


def load(door: str, name: str, **options: Any) -> Any:
    """A new member; ``name:ARGUMENT`` gives it an argument. Raises UserError as :func:`find`, and for an unknown option."""
    member = find(door, name)
    name, colon, argument = name.partition(":")
    options |= {"argument": argument} if colon else {}
    allowed = inspect.signature(member).parameters
    unknown = [option for option in options if option not in allowed]
    if unknown:
        raise UserError(f"{door} {name}: unknown option {unknown[0]!r}, allowed: {', '.join(allowed) or 'none'}")
    return member(**options)
