"""The values and options of a space file against what the techniques take, before anything is built.

A technique is loaded, and torch with it, only for what no shipped space has.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from autoslim import plugins, yamlfile
from autoslim.errors import UserError
from autoslim.interfaces import Unit

#: channels of the unit that stands for those of a network; no message tells this number
SIZE = 10**9


def mistakes(data: Any, source: str, lines: Mapping[tuple, int]) -> list[str]:
    """A line for every value and option that its technique refuses, with its place, what it is and what is allowed. What is no technique
    or has another form than a space is left to ``SpaceSpec``."""
    techniques = data.get("techniques") if isinstance(data, Mapping) else None
    if not isinstance(techniques, Mapping):
        return []
    known = shipped_parts()
    return [
        f"{source}:{lines.get(where, 1)}: {'.'.join(map(str, where))} is {value!r}, {told}"
        for name, settings in techniques.items()
        if name in plugins.names("techniques") and isinstance(settings, Mapping)
        for where, value, told in refused(name, settings, known)
    ]


def shipped_parts() -> set[tuple[str, str]]:
    """(technique, repr of a value or of options) of all shipped spaces, which need no look at their techniques."""
    found = set()
    for path in yamlfile.shipped("search_spaces").values():
        for name, settings in yamlfile.read(path)[0]["techniques"].items():
            found |= {(name, repr(value)) for _, value, _ in parts(name, settings or {})}
            found.add((name, repr((settings or {}).get("options"))))
    return found


def parts(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[tuple, Any, str | None]]:
    """(place, value, its key where it is one of several knobs) of every value."""
    values = settings.get("values")
    lists = values.items() if isinstance(values, Mapping) else [(None, values)]
    for key, own in lists:
        for index, value in enumerate(own if isinstance(own, list) else []):
            where = ("techniques", name, "values", *(() if key is None else (key,)), index)
            yield where, value if key is None else {key: value}, key


def refused(name: str, settings: Mapping[str, Any], known: set[tuple[str, str]]) -> Iterator[tuple[tuple, Any, str]]:
    """(place, value as it is written, what is allowed) of what the technique does not take."""
    options = settings.get("options")
    asked = [part for part in parts(name, settings) if (name, repr(part[1])) not in known]
    if not asked and (not options or (name, repr(options)) in known):
        return
    named = isinstance(options, Mapping) and all(isinstance(key, str) for key in options)
    try:
        technique = plugins.load("techniques", name, **(options if named else {}))
    except UserError as error:
        yield ("techniques", name, "options"), options, allowed(error)
        technique = plugins.load("techniques", name)  # its values are looked at all the same
    unit = Unit("", ("",), {"size": SIZE})
    knobs = getattr(technique, "knobs", ())
    for where, value, key in asked:
        if key is not None and key not in knobs:
            yield where, value[key], f"allowed keys of values: {', '.join(knobs) or 'none; give a list'}"
            continue
        try:
            technique.effective(unit, value)
        except OverflowError:
            yield where, value if key is None else value[key], "allowed: a number that a computer's float can hold"
        except UserError as error:
            yield where, value if key is None else value[key], allowed(error)


def allowed(error: UserError) -> str:
    """What a technique's message says is allowed."""
    return "allowed: " + str(error).rpartition("allowed: ")[2].replace(f" up to {SIZE}", "")
