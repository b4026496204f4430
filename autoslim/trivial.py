"""Trivial rivals that a search space does not hold: uniform int8 and uniform channel pruning, made from the network's structure and the
techniques alone, without a point of the space. They are of the whole network: what the space freezes, they do not freeze.
"""

from collections.abc import Mapping
from typing import Any

from autoslim import offers, plugins
from autoslim.recipe import Recipe, Step
from autoslim.space import CHANNELS, INT8, RECOVERY, SearchSpace
from autoslim.structure import Structure

#: shares of the channels that stay, and the number of such rivals that a report shows
RATIOS, SHOWN = (0.75, 0.5), 2


def outside(
    space: SearchSpace, spec: Mapping[str, Any], structure: Structure, supports: Mapping[str, tuple]
) -> tuple[dict[str, Recipe], dict[str, str]]:
    """({label: recipe} of the rivals that are no points of ``space``, {label: why} of those that this network or runtime has not)."""
    made: dict[str, Recipe] = {}
    lacking: dict[str, str] = {}
    known = {Recipe(space.decode(point).steps).key for point in space.rivals().values()}
    for label, technique, value in wanted(space):
        plain, why = uniform(technique, value, spec, structure, supports)
        if why or plain.key in known:
            lacking[label] = why or "another rival has the same recipe"
        else:
            known.add(plain.key)
            made[label] = plain if technique == "bits" else Recipe(plain.steps, dict(sorted(recovery_of(spec).items())))
    return made, lacking


def wanted(space: SearchSpace) -> list[tuple[str, str, Any]]:
    """(label, technique, value) of each rival that ``space`` lacks."""
    there = space.rivals()
    missing = [] if INT8 in there else [(INT8, "bits", 8)]
    shares = [(label, "channels", share) for share in RATIOS if (label := f"{CHANNELS}-{share}") not in there]
    return missing + shares[: max(0, SHOWN - sum(label.startswith(CHANNELS) for label in there))]


def uniform(name: str, value: Any, spec: Mapping[str, Any], structure: Structure, supports: Mapping[str, tuple]) -> tuple[Recipe, str]:
    """(one technique at one value in every unit of the network, without recovery; why there is no such recipe)."""
    if name in supports and offers.format_of(value) not in supports[name]:
        return Recipe(), f"the runtime has no kernels for {name} {value}"
    technique = plugins.load("techniques", name, **((spec["techniques"].get(name) or {}).get("options") or {}))
    units = technique.units(structure)
    if not units:
        return Recipe(), f"this network has no unit for {name}"
    steps = [Step(name, unit.name, done) for unit in units.values() if (done := technique.effective(unit, value)) is not None]
    return Recipe.of(steps), "" if steps else f"{name} at {value} changes none of the {len(units)} units of this network"


def recovery_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The recovery of the space with one value for each key: of what it leaves open the last, and the fewest steps of distillation above 0,
    so that a rival costs what a cheap candidate does."""
    told = {key: value if isinstance(value, list) else [value] for key, value in (spec.get(RECOVERY) or {}).items()}
    found = {key: values[-1] for key, values in told.items()}
    steps = [value for value in told.get("distill_steps", ()) if value]
    return found | ({"distill_steps": min(steps)} if steps else {})
