"""What a model and a runtime offer of a space specification: the flat domains of this one search."""

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim import fitting, plugins
from autoslim.errors import UserError
from autoslim.formats import DYNAMIC
from autoslim.interfaces import Unit
from autoslim.layers import CELLS, RECURRENT
from autoslim.space import RECOVERY, Domain, SearchSpace, parent, stage
from autoslim.structure import Structure


def family(structure: Structure) -> str:
    """Which shipped space suits: "rnn", "transformer" or "cnn", by where the weights are; convolutions that end in large linear layers (VGG) do
    most of their work elsewhere, and are a "cnn"."""
    weights = {"rnn": 0, "cnn": 0, "transformer": 0}
    work = dict(weights)
    recurrent = {kind.__name__ for kind in (*RECURRENT, *CELLS)}
    for layer in structure.layers.values():
        if layer.kind == "Embedding":
            continue  # every family of text has them
        kind = "rnn" if layer.kind in recurrent else "cnn" if "Conv" in layer.kind else "transformer"
        weights[kind] += layer.params
        work[kind] += layer.macs
    if weights["rnn"] * 3 > sum(weights.values()):
        return "rnn"
    leads = weights["transformer"] > 2 * weights["cnn"] and 2 * work["transformer"] >= work["cnn"]
    return "transformer" if leads and len(structure.layers) > 8 else "cnn"


def members(spec: Mapping[str, Any]) -> dict[str, Any]:
    """{name: technique} that a space names, with the space's options."""
    return {name: plugins.load("techniques", name, **(told.get("options") or {})) for name, told in spec["techniques"].items()}


def build(
    spec: Mapping[str, Any],
    structure: Structure,
    supports: Mapping[str, tuple],
    places: Mapping[str, str] | None = None,
    more: Sequence[str] = (),
    accelerates: Mapping[str, tuple] | None = None,
) -> tuple[SearchSpace, list[str]]:
    """(the search space, what it leaves out and why).

    ``spec`` is a checked space file. A domain per tie of units; choices that a runtime cannot make real, or that do the same
    as another choice, are left out. Raises one UserError for all that does not fit the network, a line each, with the place that ``places``
    (see ``StudySpec.space_places``) tells; ``more`` are such lines that others found. ``accelerates``, where time is the one cost that counts: what
    a runtime does not make faster is left out too.
    """
    domains: list[Domain] = []
    notes: list[str] = []
    techniques = members(spec)
    if wrong := [*fitting.mistakes(spec, techniques, structure, places or {}), *more]:
        raise UserError("\n".join(wrong))
    for name, technique in techniques.items():
        told = spec["techniques"][name]
        if isinstance(told.get("values"), Mapping):
            domains += knob_domains(name, technique, structure, told["values"])
            continue
        units = {
            unit.name: unit
            for unit in technique.units(structure).values()
            if fitting.chosen(unit, told.get("layers") or ["*"], spec.get("freeze") or [])
        }
        values = tuple(told["values"] if told.get("values") is not None else technique.values)
        values, left = real_and_fast(name, values, technique.values[0], supports.get(name), (accelerates or {}).get(name))
        notes += left
        for label, tied in tie(units, told.get("tie", "none"), spec.get("ties") or []).items():
            domain = domain_of(name, label, [technique.effective] * len(tied), tied, values)
            if domain is not None:
                domains.append(domain)
        if not units:
            notes.append(f"{name}: this network has no unit for it")
    fixed, searched = {}, []
    for key, value in (spec.get(RECOVERY) or {}).items():
        options = value if isinstance(value, list) else [value]
        if len(options) == 1:
            fixed[key] = options[0]
        else:
            searched.append(
                Domain(
                    f"{RECOVERY}:{key}",
                    RECOVERY,
                    tuple(options),
                    tuple(() for _ in options),
                    ordered=not any(isinstance(one, str) for one in options),
                )
            )
    if not domains:
        raise UserError(
            f"{fitting.source(places or {})}: nothing in this network can be changed by it ({'; '.join(notes) or 'every unit is frozen'}); "
            "try a wider space"
        )
    return SearchSpace(tuple(domains + searched), fixed), notes


def real_and_fast(name: str, values: tuple, identity: Any, allowed: tuple | None, fast: tuple | None) -> tuple[tuple[Any, ...], list[str]]:
    """(the values of a technique that a runtime makes real and, where ``fast`` is told, faster; notes on the others). The first value stays."""
    dropped = [] if allowed is None else [value for value in values if format_of(value) not in allowed]
    kept = tuple(value for value in values if value not in dropped)
    slow = [] if fast is None else [value for value in kept[1:] if format_of(value) not in (identity, *fast)]
    whys = {
        "the runtime has no such kernels": dropped,
        "time is the only cost that counts and the runtime is no faster with it (objective size_bytes keeps it)": slow,
    }
    notes = [f"{name}: {', '.join(map(str, left))} left out: {why}" for why, left in whys.items() if left]
    return tuple(value for value in kept if value not in slow), notes


def knob_domains(name: str, technique: Any, structure: Structure, values: Mapping[str, list]) -> list[Domain]:
    """A domain per key of a technique's value that ``values`` lists choices for. Raises UserError for a key that is none of its ``knobs``."""
    known = getattr(technique, "knobs", ())
    for key in values:
        if key not in known:
            raise UserError(f"space: {name}: values name {key!r}, allowed: {', '.join(known) or 'a list of values'}")
    found = []
    for key, own in values.items():
        for unit in technique.units(structure).values():

            def effect(unit: Unit, value: Any, key: str = key) -> Any:
                return None if technique.effective(unit, {key: value}) is None else {key: value}

            found.append(domain_of(name, f"{unit.name}.{key}".strip("."), [effect], [unit], tuple(own)))
    return [domain for domain in found if domain is not None]


def format_of(value: Any) -> Any:
    """What a runtime tells apart of a value: of a number format with details, the format, or that ranges are found at every run."""
    if not isinstance(value, Mapping) or "format" not in value:
        return value
    return DYNAMIC if value.get("ranges") == DYNAMIC else value["format"]


def tie(units: Mapping[str, Unit], level: str, ties: list[list[str]]) -> dict[str, list[Unit]]:
    """{name of the decision: units it decides}; explicit ``ties`` first, then by the place in the module tree."""
    groups: dict[str, list[Unit]] = {}
    for name, unit in units.items():
        explicit = next((globs for globs in ties if any(fnmatch.fnmatchcase(name, glob) for glob in globs)), None)
        label = "+".join(explicit) if explicit else {"none": name, "block": parent(name), "stage": stage(name), "all": "all"}[level]
        groups.setdefault(label, []).append(unit)
    return groups


def domain_of(technique: str, label: str, effective: list, units: list[Unit], values: tuple) -> Domain | None:
    """The domain, or None where it would leave no choice. Choices with the same effect are one choice, the first."""
    choices, effects, seen = [], [], set()
    for value in values:
        effect = tuple((unit.name, done) for unit, act in zip(units, effective, strict=True) if (done := act(unit, value)) is not None)
        if repr(effect) in seen:
            continue
        seen.add(repr(effect))
        choices.append(scalar(value))
        effects.append(effect)
    if len(choices) < 2:
        return None
    ordered = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices) and len(choices) > 2
    return Domain(f"{technique}:{label}", technique, tuple(choices), tuple(effects), ordered)


def scalar(value: Any) -> Any:
    """A choice as samplers and tables can hold it."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={part}" for key, part in value.items())
    return value
