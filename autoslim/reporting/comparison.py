"""Several studies side by side: one front, who wins in which range of a budget, how sure that is, and what differed between the runs.

Everything is in units of each study's own untouched model, from verified rows. Studies of unlike things are refused.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim import pareto, tables
from autoslim.errors import UserError
from autoslim.metrics import loss_sign
from autoslim.reporting import differing
from autoslim.reporting.context import Material
from autoslim.reporting.words import places

DRAWS = 1000
#: costs that a range of budgets is laid over: (column, upper end or None)
COSTS = {"latency_ratio": "latency_ratio_high", "size_ratio": None}


@dataclass(frozen=True)
class Side:
    """One study under the name it has on the page."""

    name: str
    material: Material


def sides(materials: Sequence[tuple[str, Material]]) -> list[Side]:
    """The studies with names that tell them apart. Raises UserError if there are less than two or if they are unlike."""
    if len(materials) < 2:
        raise UserError("compare: got one study, allowed: two or more folders of finished searches")
    found = [Side(name, material) for name, material in materials]
    for side in found:
        if not any(row["label"] == "untouched" for row in side.material.offered):
            raise UserError(f"{side.name}: has no verified points yet; let its search finish")
    for left, right in itertools.combinations(found, 2):
        refuse_unlike(left, right)
    return found


def refuse_unlike(left: Side, right: Side) -> None:
    """Raise UserError, naming what differs, if the figures of the two may not stand in one table."""
    a, b = measured_on(left.material), measured_on(right.material)
    for what in a:
        if a[what] != b[what]:
            raise UserError(
                f"{left.name} and {right.name}: cannot be compared, {what} differs ({a[what]} and {b[what]}); compare studies of the same task, data and runtime"
            )
    one, two = (untouched_row(side.material) for side in (left, right))
    data = [differing.fingerprint(side.material) for side in (left, right)]
    if None not in data and data[0] != data[1]:
        raise UserError(
            f"{left.name} and {right.name}: cannot be compared, they were tested on other samples ({data[0]} and {data[1]}): the data behind the "
            "task has changed, or its test split is drawn anew each time; make it fixed and verify again"
        )
    same_weights = (left.material.fact("identity") or {}).get("weights") == (right.material.fact("identity") or {}).get("weights")
    if same_weights and not math.isclose(one["metric_test"], two["metric_test"], abs_tol=2 / max(one["n_test"], 1)):
        raise UserError(
            f"{left.name} and {right.name}: cannot be compared, the same weights score {one['metric_test']:.4f} and {two['metric_test']:.4f} untouched: "
            "they were tested on other data"
        )


def measured_on(material: Material) -> dict[str, Any]:
    """What must be alike: task with its arguments, part, metric, runtime (not the device behind it), test data, what is timed."""
    identity, context, row = material.fact("identity") or {}, material.context, untouched_row(material)
    return {
        "the task (its file, arguments or sample cap)": identity.get("task"),
        "the part": identity.get("part", ""),
        "the metric": f"{context['metric_name']}, {context['metric_direction']}",
        "the runtime": context["target"].partition(":")[0],  # devices behind cmd: may differ
        "the test split": f"{row['test_split']}, {row['n_test']} samples",
        "the batch that is timed": row["batch"],
    }


def untouched_row(material: Material) -> Mapping[str, Any]:
    return next(row for row in material.rows if row["label"] == "untouched")


# -- the joint front ------------------------------------------------------------------------------------------------------


def coordinates(row: Mapping[str, Any], untouched: Mapping[str, Any]) -> tuple[float, float, float]:
    """(relative drop on test data, time ratio, size ratio) of a verified row; all to be minimised."""
    return row["drop_test"] / max(abs(untouched["metric_test"]), 1e-12), row["latency_ratio"], row["size_ratio"]


def spreads(row: Mapping[str, Any], untouched: Mapping[str, Any]) -> tuple[float, float, float]:
    """Standard deviations of the coordinates, from the 95 % intervals; 0 where there is none."""

    def sd(name: str) -> float:
        return 0.0 if row.get(f"{name}_low") is None else (row[f"{name}_high"] - row[f"{name}_low"]) / (2 * 1.96)

    return sd("drop_test") / max(abs(untouched["metric_test"]), 1e-12), sd("latency_ratio"), 0.0


def joint_front(found: Sequence[Side]) -> list[dict[str, Any]]:
    """The rows that no row of any study dominates: {"study", "key", "label", "summary", figures}. Of equal rows each study keeps its own."""
    rows = [(side, row) for side in found for row in side.material.offered]
    places = [coordinates(row, untouched_row(side.material)) for side, row in rows]
    best = {place for place, on_front in zip(places, pareto.front(np.array(places)), strict=True) if on_front}
    held = {(side.name, place): (side, row) for (side, row), place in reversed(list(zip(rows, places, strict=True))) if place in best}
    kept = list(held.values())
    return [
        {"study": side.name} | {name: row[name] for name in ("key", "label", "summary", "metric_test", "drop_test", "latency_ms", "latency_ratio", "size_bytes", "size_ratio")}
        for side, row in sorted(kept, key=lambda pair: (pair[1]["latency_ratio"], pair[0].name))
    ]  # fmt: skip


def volume(side: Side) -> dict[str, float]:
    """{"value", "low", "high"}: hypervolume of the study's verified points on test data."""
    untouched = untouched_row(side.material)
    points = np.array([coordinates(row, untouched) for row in side.material.offered])
    return interval(points, np.array([spreads(row, untouched) for row in side.material.offered]))


def interval(points: np.ndarray, spread: np.ndarray, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Hypervolume of ``points`` (n, 3) that are known to ``spread`` (n, 3) standard deviations, with its 95 % interval. Every figure is drawn
    anew (normal, independent); since noise alone makes volumes larger, the interval is the basic bootstrap's (Efron and Tibshirani 1993, 13.3)."""
    corner = np.array([tables.REFERENCE_DROP, tables.REFERENCE_COST, tables.REFERENCE_COST])
    generator = np.random.default_rng(seed)
    drawn = [pareto.hypervolume(points + spread * generator.standard_normal(points.shape), corner) for _ in range(draws)]
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = pareto.hypervolume(points, corner)
    return {"value": value, "low": float(min(2 * value - high, value)), "high": float(max(2 * value - low, value))}


# -- who wins where -------------------------------------------------------------------------------------------------------


def winners(found: Sequence[Side], cost: str) -> list[dict[str, Any]]:
    """Ranges of a budget on ``cost`` (a key of COSTS), from the tightest that anything meets: {"from", "to" (None: no end), "winner",
    "tied", "metric_test", "key", "second", "certain"}. In each range every study offers the point that validation data choose; the winner is the
    best of these on test data, and certain if its interval does not touch the second's."""
    edges = sorted({cost_of(row, cost) for side in found for row in side.material.offered})
    ranges: list[dict[str, Any]] = []
    for place, edge in enumerate(edges):
        told = verdict(found, cost, edge)
        if ranges and all(ranges[-1][name] == told[name] for name in ("winner", "key", "second", "certain")):
            ranges[-1]["to"] = edges[place + 1] if place + 1 < len(edges) else None
        else:
            ranges.append({"from": edge, "to": edges[place + 1] if place + 1 < len(edges) else None, **told})
    return ranges


def verdict(found: Sequence[Side], cost: str, budget: float) -> dict[str, Any]:
    """Who is best within one budget; studies with equal offers are all named."""
    sign = loss_sign(found[0].material.context["metric_direction"])
    offers = []
    for side in found:
        within = [row for row in side.material.offered if cost_of(row, cost) <= budget]
        if within:
            row = min(within, key=lambda row: (row["metric_val"] * sign, cost_of(row, cost)))
            offers.append((side.name, row))

    def place(row: Mapping[str, Any]) -> tuple[float, float]:
        return row["metric_test"] * sign, cost_of(row, cost)

    offers.sort(key=lambda offer: place(offer[1]))
    row = offers[0][1]
    equal = [name for name, other in offers if place(other) == place(row)]
    second = offers[len(equal)] if len(offers) > len(equal) else None
    return {
        "winner": " and ".join(equal),
        "tied": len(equal) > 1,
        "key": row["key"],
        "metric_test": row["metric_test"],
        "second": second[0] if second else None,
        "certain": second is None or apart(row, second[1]),
    }


def cost_of(row: Mapping[str, Any], cost: str) -> float:
    """What a budget is held against: the upper end of the interval where there is one."""
    upper = COSTS[cost]
    return row[upper] if upper and row.get(upper) is not None else row[cost]


def apart(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Whether two metrics' intervals do not touch; False where one is unknown."""
    if left["metric_test_low"] is None or right["metric_test_low"] is None:
        return False
    return left["metric_test_low"] > right["metric_test_high"] or right["metric_test_low"] > left["metric_test_high"]


# -- all of it -----------------------------------------------------------------------------------------------------------


def compare(found: Sequence[Side]) -> dict[str, Any]:
    """Everything that a page or a text says about the studies, as plain data."""
    return {
        "studies": [
            {
                "name": side.name,
                "timed_on": side.material.context["target"],
                "points": len(side.material.offered),
                "evaluations": side.material.evaluations,
                "seconds": round(sum(run["seconds"] for run in side.material.fact("runs") or []), 1),
                "hypervolume": volume(side),
                "best": {name: side.material.chosen[name] for name in ("key", "metric_test", "drop_test", "latency_ms", "latency_ratio", "size_bytes", "size_ratio")},
            }
            for side in found
        ],
        "metric": {"name": found[0].material.context["metric_name"], "direction": found[0].material.context["metric_direction"], "places": places(untouched_row(found[0].material))},
        "front": joint_front(found),
        "winners": {cost: winners(found, cost) for cost in COSTS},
        "differences": differing.differences([side.material for side in found]),
        "points": differing.points([side.material for side in found]),
        "notes": differing.notes([(side.name, side.material) for side in found]),
    }  # fmt: skip


def verdict_words(told: Mapping[str, Any]) -> str:
    """The comparison in one sentence."""
    order = sorted(told["studies"], key=lambda study: -study["hypervolume"]["value"])
    first, second = (study["hypervolume"] for study in order[:2])
    sure = "clearly" if first["low"] > second["high"] else "within the uncertainty of both"
    if first == second:
        words = f"{order[0]['name']} and {order[1]['name']} cover the same, hypervolume {first['value']:.4f} ({first['low']:.4f} to {first['high']:.4f})"
    else:
        words = (
            f"{order[0]['name']} covers most, hypervolume {first['value']:.4f} ({first['low']:.4f} to {first['high']:.4f}) against "
            f"{second['value']:.4f} ({second['low']:.4f} to {second['high']:.4f}) of {order[1]['name']}, {sure}"
        )
    held = {study["name"]: sum(row["study"] == study["name"] for row in told["front"]) for study in told["studies"]}
    shared = ", ".join(f"{name} has {count}" for name, count in held.items())
    return f"{words}; of the {len(told['front'])} points of the joint front {shared}."
