"""Another answer from the same verified points: by budget, by knee, by weights, by faith; with the reason, and what was nearly chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoslim import pareto, recommending, tables
from autoslim.budget import feasible
from autoslim.errors import UserError
from autoslim.metrics import METRICS, OBJECTIVES, Measurement, Value, loss_sign
from autoslim.reporting.context import Material
from autoslim.reporting.words import over_the_limit, places, point_name

Row = Mapping[str, Any]
UNITS = {"latency_ms": (1.0, " ms"), "size_bytes": (1e3, " kB"), "peak_memory_bytes": (1e6, " MB"), "macs": (1e6, " M MACs")}
#: alternatives of each kind that are named
MOST = 2


@dataclass(frozen=True)
class Picked:
    """``row`` is the answer, or the nearest miss if not ``met``; ``why`` and ``warnings`` are sentences; ``alternatives`` are {"row", "why"}."""

    row: Row | None
    met: bool
    why: list[str] = field(default_factory=list)
    alternatives: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def pick(
    material: Material, context: Mapping[str, Any], knee: bool = False, weights: Mapping[str, float] | None = None, faithful: bool = False
) -> Picked:
    """Choose among the verified rows under ``context["budget"]``."""
    rows = judged(material.offered, context)
    good = [row for row in rows if row["feasible"]]
    if not rows:
        return Picked(None, False)
    misses = sorted((row for row in rows if not row["feasible"]), key=lambda row: excess(row, context))
    if not good:
        row = misses[0]
        return Picked(
            row,
            False,
            [f"No verified point meets the budget: {point_name(row)} has {broken_words(row, context)}."],
            [missed(other, context) for other in misses[1 : 1 + MOST]],
            warnings(row, context),
        )
    if faithful:
        order, rule = by_gap(good, context)
    elif knee or weights:
        order, rule = by_shape(good, context, weights)
    else:
        order, rule = by_budget(good, context)
    chosen = order[0]
    why = [f"{len(good)} of {len(rows)} verified points are within the limits.", rule, *margins(chosen, context)]
    others = [{"row": row, "why": f"next by the same rule: {against(row, chosen)}"} for row in order[1 : 1 + MOST]]
    return Picked(chosen, True, why, others + [missed(row, context) for row in misses[:MOST]], warnings(chosen, context))


def warnings(row: Row, context: Mapping[str, Any]) -> list[str]:
    """What test data say against the row, since points are selected on validation data."""
    limit = context["budget"].max_drop
    above = "" if limit is None else over_the_limit(row, limit.resolve(context["untouched"].get("metric")))
    return [above] if above else []


def judged(rows: Sequence[Row], context: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows with ``feasible`` under the context's budget."""
    return [dict(row) | {"feasible": feasible(tables.violations_of(row, context["budget"], context["untouched"]))} for row in rows]


def by_budget(good: list[Row], context: Mapping[str, Any]) -> tuple[list[Row], str]:
    """The rows from the recommended one on, each the recommendation when those before it are away."""
    order, rest = [], list(good)
    while rest:
        best = recommending.best(rest, context)
        order.append(best)
        rest = [row for row in rest if row is not best]
    return order, by_budget_rule(good, context)


def by_budget_rule(good: list[Row], context: Mapping[str, Any]) -> str:
    """Why the first of :func:`by_budget` is the first."""
    near = recommending.within_one_error(good)
    kept = recommending.within_expectation(near, context)
    among = f"Of those within one standard error of the best {good[0]['metric']} on validation data"
    limit = context["budget"].max_drop
    if limit is not None and recommending.expected(kept[0]) > limit.resolve(context["untouched"].get("metric")) + 1e-12:
        return f"{among}, none of which is expected to keep the limit on the drop, it is expected to lose least."
    also = "" if len(kept) == len(near) else " and expected to keep the limit on the drop"
    costs = " and ".join(METRICS[name].name for name in context["objectives"] if name != "metric") or "cost"
    return f"{among}{also}, it has the smallest product of {costs}, each as a ratio to the untouched model."


def by_gap(good: list[Row], context: Mapping[str, Any]) -> tuple[list[Row], str]:
    """The rows within the interval of the best metric, those nearest to the original's outputs first; then the others by their metric. Gaps on
    validation data tell more of the metric on test data than the metric on a few hundred validation samples does, so that the metric only
    keeps away files that it calls worse beyond doubt."""
    near = recommending.within_interval(good)
    keys = {row["key"] for row in near}
    order = sorted(near, key=lambda row: (far(row), recommending.cost(row, context), row["key"]))
    sign = loss_sign(good[0]["metric_direction"])
    rest = sorted((row for row in good if row["key"] not in keys), key=lambda row: (row["metric_val"] * sign, far(row), row["key"]))
    told = "" if order[0].get("gap") is None else f" ({order[0]['gap']:.3g})"
    rule = (
        f"Of those within the interval of the best {good[0]['metric']} on validation data, its outputs are nearest to the original's{told}."
    )
    return order + rest, rule


def by_shape(good: list[Row], context: Mapping[str, Any], weights: Mapping[str, float] | None) -> tuple[list[Row], str]:
    """The rows by the weighted sum of their objectives, each scaled to [0, 1] over the front of ``good``; equal weights are the knee. Of equal
    sums, as ``metric`` alone often gives, the one whose outputs are nearest to the original's comes first: of files that are right on the same
    samples it is the least lucky."""
    objectives = list(weights or context["objectives"])
    points = np.array([tables.coordinates(verified_of(row), context["untouched"], objectives, row["metric_direction"]) for row in good])
    mask = pareto.front(points)
    level = (points[:, None] == points[mask][None]).all(2).any(1)  # of equal points the mask has one
    span = np.ptp(points[mask], axis=0)
    scaled = (points - points[mask].min(axis=0)) / np.where(span > 0, span, 1.0)
    share = np.array([1.0 if weights is None else weights[name] for name in objectives])
    score = scaled @ share / share.sum()
    order = sorted(
        range(len(good)), key=lambda i: (not level[i], score[i], far(good[i]), recommending.cost(good[i], context), good[i]["key"])
    )
    goals = ", ".join(name if weights is None else f"{name} x{weights[name]:g}" for name in objectives)
    rule = "It is the knee" if weights is None else "It has the least weighted sum"
    return [
        good[i] for i in order
    ], f"{rule} of the front of {int(mask.sum())} points: {goals}, each scaled to its range there; score {score[order[0]]:.3f}."


def far(row: Row) -> float:
    """The gap of a row; rows of earlier versions have none."""
    return math.inf if row.get("gap") is None else row["gap"]


def verified_of(row: Row) -> Measurement:
    """A row's figures with the metric on validation data, on which selections are made."""
    values = {name: Value(row[name]) for name in OBJECTIVES if name != "metric" and row.get(name) is not None}
    return Measurement({**values, "metric": Value(row["metric_val"]), "latency_ratio": Value(row["latency_ratio"])})


def parse_weights(text: str) -> dict[str, float]:
    """``metric=2,latency_ms=1`` as a mapping. Raises UserError."""
    found = {}
    for part in text.split(","):
        name, sign, value = part.strip().partition("=")
        try:
            weight = float(value) if sign else 1.0
        except ValueError:
            weight = -1.0
        if name in found:
            raise UserError(f"--weights: got {name} twice, allowed: each goal once")
        if name not in OBJECTIVES or not 0 < weight < float("inf"):
            raise UserError(f"--weights: got {part.strip()!r}, allowed: NAME=NUMBER above 0, with names of {', '.join(OBJECTIVES)}")
        found[name] = weight
    return found


def check_known(material: Material, weights: Mapping[str, float]) -> None:
    """Raises UserError for a weighted goal that the verified points have no number of."""
    for name in weights:
        if name != "metric" and any(row.get(name) is None for row in material.offered):
            raise UserError(f"--weights: {name} was not measured in study {material.name}; leave it out")


# -- words ----------------------------------------------------------------------------------------------------------------


def excess(row: Row, context: Mapping[str, Any]) -> float:
    """By how much the row breaks the limits, in sum of shares."""
    return sum(max(0.0, amount) for amount in tables.violations_of(row, context["budget"], context["untouched"]).values())


def margins(row: Row, context: Mapping[str, Any]) -> list[str]:
    """How far the row is from each limit."""
    broken = tables.violations_of(row, context["budget"], context["untouched"])
    said = []
    for name, amount in broken.items():
        if name == "max_drop":
            allowed = context["budget"].max_drop.resolve(context["untouched"].get("metric"))
            told = (
                ""
                if row.get("drop_expected") is None
                else f"; with its gap to the original weighed in, {row['drop_expected']:+.4g} is expected"
            )
            said.append(f"Its drop on validation data is {row['drop_val']:+.4g} of {allowed:.4g} allowed{told}.")
        else:
            measured = context["budget"].judged_by(name)
            end = ", upper end of the interval," if row.get(f"{measured}_high") is not None else ""
            said.append(f"Its {measured}{end} is {shown(measured, upper(row, measured))}, {-amount:.0%} below the limit.")
    return said


def broken_words(row: Row, context: Mapping[str, Any]) -> str:
    """The limits that a row breaks, and by how much."""
    said = []
    for name, amount in tables.violations_of(row, context["budget"], context["untouched"]).items():
        if amount > 1e-9 and name == "max_drop":
            allowed = context["budget"].max_drop.resolve(context["untouched"].get("metric"))
            said.append(f"a drop of {row['drop_val']:.4g} on validation data where {allowed:.4g} is allowed")
        elif amount > 1e-9:
            measured = context["budget"].judged_by(name)
            said.append(f"{measured} {shown(measured, upper(row, measured))}, {amount:.0%} above the limit")
    return " and ".join(said)


def missed(row: Row, context: Mapping[str, Any]) -> dict[str, Any]:
    return {"row": row, "why": f"rejected: {broken_words(row, context)}"}


def against(row: Row, chosen: Row) -> str:
    """A row beside the chosen one, in the chosen one's units."""
    return (
        f"{row['metric']} {row['metric_test'] - chosen['metric_test']:+.{places(chosen)}f}, time x{row['latency_ms'] / chosen['latency_ms']:.2f}, "
        f"bytes x{row['size_bytes'] / chosen['size_bytes']:.2f}"
    )


def upper(row: Row, name: str) -> float:
    return row[name] if row.get(f"{name}_high") is None else row[f"{name}_high"]


def shown(name: str, value: float) -> str:
    factor, unit = UNITS.get(name, (1.0, ""))
    return f"{value / factor:.4g}{unit}"
