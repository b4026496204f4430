"""YAML files whose mistakes are reported all at once, each with its line, the value got and the values allowed."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from autoslim.errors import UserError

HERE = Path(__file__).resolve().parent

#: what pydantic's kinds of mistakes allow, in words of YAML
KINDS = {
    "string_type": "a text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def folder(name: str) -> Path:
    """Where ``search_spaces`` or ``studies`` are: inside an installed wheel, or beside the package in a checkout."""
    inside = HERE / "data" / name
    return inside if inside.is_dir() else HERE.parent / name


def shipped(name: str) -> dict[str, Path]:
    """{stem: path} of the shipped files of one kind."""
    return {path.stem: path for path in sorted(folder(name).glob("*.yaml"))}


def find(kind: str, name: str) -> Path:
    """A shipped file by its name or any file by its path. Raises UserError with what is allowed."""
    known = shipped(kind)
    if name in known:
        return known[name]
    path = Path(name)
    if path.is_file():
        return path
    close = difflib.get_close_matches(name, known, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise UserError(f"{kind}: got {name!r}, allowed: {', '.join(known)}, or a path to a .yaml file{hint}")


def read(path: Path) -> tuple[Any, dict[tuple, int]]:
    """(content, {path of keys: line}). Raises UserError with the line of a syntax mistake or a repeated key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        lines: dict[tuple, int] = {}
        repeated = list(note_lines(node, (), lines)) if node is not None else []
        if repeated:
            raise UserError("\n".join(f"{path}:{line}: {key} is given twice; keep one" for key, line in repeated))
        return yaml.safe_load(text), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}:{mark.line + 1 if mark else '?'}: not YAML ({getattr(error, 'problem', None) or error})") from None


def note_lines(node: yaml.Node, where: tuple, lines: dict[tuple, int]) -> Iterable[tuple[str, int]]:
    """Fill ``lines`` for every key and item below ``node``; yields keys that occur twice in one mapping."""
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            here = (*where, key.value)
            if key.value in seen:
                yield ".".join(map(str, here)), key.start_mark.line + 1
            seen.add(key.value)
            lines[here] = key.start_mark.line + 1
            yield from note_lines(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*where, index)] = value.start_mark.line + 1
            yield from note_lines(value, (*where, index), lines)


def check(model: type[BaseModel], data: Any, source: str, lines: Mapping[tuple, int], below: tuple = ()) -> Any:
    """``data`` as a validated ``model``. Raises one UserError with every mistake, a line each."""
    if not isinstance(data, Mapping):
        raise UserError(f"{source}:{lines.get(below, 1)}: got {data!r}, expected a mapping with the keys {', '.join(model.model_fields)}")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(say(problem, source, lines, below, model) for problem in error.errors())) from None


def say(problem: Mapping[str, Any], source: str, lines: Mapping[tuple, int], below: tuple, model: type[BaseModel]) -> str:
    """One line of a report: place, name, value got, values allowed."""
    where = (*below, *(part for part in problem["loc"] if not _is_branch(part)))
    line = next((lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), 0)
    place = f"{source}:{line}" if line else source
    name = ".".join(str(part) for part in where)
    if problem["type"] == "extra_forbidden":
        allowed = fields_at(model, problem["loc"][:-1])
        close = difflib.get_close_matches(str(where[-1]), allowed, 1)
        return f"{place}: unknown key {name!r}, allowed: {', '.join(allowed)}" + (f" (did you mean {close[0]}?)" if close else "")
    if problem["type"] == "missing":
        return f"{place}: {name} is missing"
    allowed = KINDS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if source == "command line":
        flag = "-".join(str(part) for part in where if where != ("budget", "max_drop") or part != "budget").replace("_", "-")
        return f"--{flag}: got {problem['input']!r}, allowed: {allowed}"
    if problem["loc"][-1] == "[key]":
        return f"{place}: unknown key {name!r}, allowed: {allowed}"
    return f"{place}: {name} is {problem['input']!r}, allowed: {allowed}"


def _is_branch(part: Any) -> bool:
    """Pydantic names the branch of a union in the location, and says that it means a key itself; people do not."""
    return isinstance(part, str) and (
        part in ("str", "int", "float", "bool", "dict", "list", "[key]") or part.startswith(("function-", "list[", "dict["))
    )


def fields_at(model: type[BaseModel], loc: Iterable[Any]) -> list[str]:
    """Names allowed at a place of nested models."""
    current: Any = model
    for part in loc:
        field = getattr(current, "model_fields", {}).get(part)
        found = next((inner for inner in _models_in(field.annotation)), None) if field is not None else None
        current = found or current
    return list(getattr(current, "model_fields", {}))


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models_in(inner)
