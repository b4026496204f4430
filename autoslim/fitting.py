"""Mistakes of a space file that only the network shows: globs that match nothing, ties that tie nothing.

Each is a line with its place in the file, the value got and the values allowed.
"""

import difflib
import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoslim.interfaces import Unit
from autoslim.structure import Structure

Units = Mapping[str, Mapping[str, Unit]]


def mistakes(spec: Mapping[str, Any], techniques: Mapping[str, Any], structure: Structure, places: Mapping[str, str]) -> list[str]:
    """A line for everything in a checked space file that does not fit the network; ``techniques``: {name: member} of the space."""
    units = {name: technique.units(structure) for name, technique in techniques.items()}
    found = [*lost_globs(spec, units, structure), *idle_ties(spec, units)]
    return [line(places, where, value, told) for where, value, told in found]


def line(places: Mapping[str, str], where: Sequence[Any], value: Any, told: str) -> str:
    """One mistake with its place: "space.yaml:3: freeze.0 is 'x', ..."; "space: ..." where no place is known."""
    words = [str(part) for part in where]
    place = next((places[path] for end in range(len(words), 0, -1) if (path := ".".join(words[:end])) in places), "space")
    return f"{place}: {'.'.join(words)} is {value!r}, {told}"


def source(places: Mapping[str, str]) -> str:
    """The space's file, or "space" where it is not known."""
    return next(iter(places.values()), "space").rpartition(":")[0] or "space"


def lost_globs(spec: Mapping[str, Any], units: Units, structure: Structure) -> Iterator[tuple[tuple, Any, str]]:
    """(place, glob, what is allowed) of the globs that match nothing: of ``layers`` no unit of the technique (where it has any), of
    ``freeze`` and ``ties`` nothing in the network."""
    own = {name: {label for unit in found.values() for label in (unit.name, *unit.layers)} for name, found in units.items()}
    everything = set(structure.layers) | set(structure.groups) | set(structure.blocks) | set().union(*own.values())
    asked = [(("freeze", i), glob, everything) for i, glob in enumerate(spec.get("freeze") or [])]
    asked += [(("ties", i, j), glob, everything) for i, globs in enumerate(spec.get("ties") or []) for j, glob in enumerate(globs)]
    for name, there in own.items():
        globs = spec["techniques"][name].get("layers") or []
        asked += [(("techniques", name, "layers", i), glob, there) for i, glob in enumerate(globs) if there and glob != "*"]
    for where, glob, there in asked:
        if not any(fnmatch.fnmatchcase(one, glob) for one in there):
            yield (
                where,
                glob,
                f"which matches nothing that can be compressed in this network, allowed: globs that do, such as {alike(glob, there)}",
            )


def idle_ties(spec: Mapping[str, Any], units: Units) -> Iterator[tuple[tuple, Any, str]]:
    """(place, globs, what is allowed) of the ties whose globs all match units, but no two of one technique, so that nothing is decided
    together."""
    for i, globs in enumerate(spec.get("ties") or []):
        matched = [[(name, unit) for name, own in units.items() for unit in own if fnmatch.fnmatchcase(unit, glob)] for glob in globs]
        tied = sorted({pair for pairs in matched for pair in pairs})
        if all(matched) and tied and len({name for name, _ in tied}) == len(tied):
            told = ", ".join(f"{unit} of {name}" for name, unit in tied)
            yield (
                ("ties", i),
                list(globs),
                f"which ties nothing ({told} alone), allowed: globs of two or more units that one technique treats",
            )


def chosen(unit: Unit, globs: Sequence[str], freeze: Sequence[str]) -> bool:
    """A unit is searched if its name or one of its layers matches ``globs`` and none of them is frozen."""
    own = (unit.name, *unit.layers)
    return any(fnmatch.fnmatchcase(name, glob) for name in own for glob in globs) and not any(
        fnmatch.fnmatchcase(name, glob) for name in own for glob in freeze
    )


def alike(glob: str, names: set[str]) -> str:
    """Up to three names that a glob may have meant: the closest ones, else the first."""
    there = sorted(name for name in names if name)
    return ", ".join(difflib.get_close_matches(glob.replace("*", ""), there, 3) or there[:3])
