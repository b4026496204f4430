"""What each technique contributed to a point: a forecast share of every cost, and beside it what was measured of the technique alone."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from autoslim.budget import drop
from autoslim.candidate import Done
from autoslim.reporting.context import Material
from autoslim.reporting.singles import COSTS, Singles
from autoslim.study import Entry

TINY = 1e-12


def shapley(players: Sequence[str], value: Callable[[tuple[str, ...]], float]) -> dict[str, float]:
    """Each player's mean gain over all orders of joining (Shapley 1953); the gains add up to value(all) - value(none)."""
    count = len(players)
    known = {frozenset(group): value(group) for size in range(count + 1) for group in itertools.combinations(players, size)}
    found = {}
    for player in players:
        gain = 0.0
        for group in known:
            if player not in group:
                weight = math.factorial(len(group)) * math.factorial(count - len(group) - 1) / math.factorial(count)
                gain += weight * (known[group | {player}] - known[group])
        found[player] = gain
    return found


def contributions(material: Material, singles: Singles | None, entry: Entry) -> list[dict[str, Any]]:
    """One row per technique of the entry's recipe: {"technique", "steps", "ms", "bytes", "macs" (factors whose product over the techniques
    is the forecast of the whole), "loss" (sum of losses measured one by one, in units of the gap), "alone" (a measured trial or None)}."""
    recipe = entry.outcome.recipe
    names = sorted(recipe.techniques())
    factors = {cost: factors_of(singles, entry.point, names, cost) for cost in COSTS} if singles else {}
    losses = singles.losses(entry.point) if singles else {}
    return [
        {
            "technique": name,
            "steps": len(recipe.by(name)),
            **{cost: factors.get(cost, {}).get(name) for cost in COSTS},
            "loss": losses.get(name),
            "alone": alone(material, name, entry),
        }
        for name in names
    ]


def factors_of(singles: Singles, point: Mapping[str, Any], techniques: Sequence[str], cost: str) -> dict[str, float]:
    """{technique: factor on the cost}; by Shapley on logarithms, so that the product is the whole forecast."""

    def value(group: tuple[str, ...]) -> float:
        return math.log(max(singles.total(cost, point, group), TINY))

    return {name: math.exp(gain) for name, gain in shapley(techniques, value).items()}


def alone(material: Material, technique: str, like: Entry) -> dict[str, Any] | None:
    """The measured trial of this technique alone whose metric is nearest to that of ``like`` (of equals the faster one)."""
    direction, untouched = material.context["metric_direction"], material.context["untouched"]
    target = like.outcome.measurement.get("metric")
    tried = [
        entry
        for entry in material.by_key.values()
        if isinstance(entry.outcome, Done) and entry.outcome.recipe.techniques() == {technique} and entry.key != like.key
    ]
    if not tried:
        return None
    entry = min(
        tried,
        key=lambda entry: (
            abs(entry.outcome.measurement.get("metric") - target),
            entry.outcome.measurement.get("latency_ratio") or 0.0,
            entry.number,
        ),
    )
    found = entry.outcome.measurement
    return {
        "number": entry.number,
        "latency_ratio": found.get("latency_ratio"),
        "size_ratio": found.get("size_bytes") / untouched.get("size_bytes"),
        "drop_val": drop(found.get("metric"), untouched.get("metric"), direction),
    }
