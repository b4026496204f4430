"""The study as tables: verified points and rivals, everything asked, and the summary. Needs neither torch nor a model."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from autoslim import pareto
from autoslim.budget import drop, feasible
from autoslim.candidate import Done, Failed, Rejected
from autoslim.losses import weighed
from autoslim.metrics import Direction, Measurement, Value, direction_of
from autoslim.recipe import describe
from autoslim.study import NO_TRIAL, Entry

SCHEMA_VERSION = 1
FRONT_COLUMNS = (
    "schema_version",
    "key",
    "label",
    "feasible",
    "metric",
    "metric_direction",
    "metric_val",
    "metric_test",
    "metric_test_low",
    "metric_test_high",
    "drop_test",
    "drop_test_low",
    "drop_test_high",
    "n_test",
    "latency_ms",
    "latency_ms_low",
    "latency_ms_high",
    "latency_ratio",
    "latency_ratio_low",
    "latency_ratio_high",
    "size_bytes",
    "size_ratio",
    "macs",
    "params",
    "peak_memory_bytes",
    "target",
    "threads",
    "batch",
    "model_file",
    "recipe_file",
    "sha256",
    "throughput",
    "latency_p95_ms",
    "drop_val",
    "drop_expected",
    "metric_val_low",
    "metric_val_high",
    "gap",
    "test_split",
    "summary",
    "outside",
)
TRIAL_COLUMNS = (
    "number",
    "key",
    "label",
    "end",
    "rung",
    "reason",
    "detail",
    "cached_from",
    "metric_val",
    "latency_ms",
    "latency_ms_low",
    "latency_ms_high",
    "latency_ratio",
    "size_bytes",
    "macs",
    "params",
    "peak_memory_bytes",
    "feasible",
    "violations",
    "seconds",
    "summary",
    "recipe",
    "point",
)
#: in the memo of a trial that made a lost file again: the number of the trial that made it first
REMAKES = "remakes"
#: worst corner of the box that hypervolume is measured in: half of the untouched metric lost, a tenth above untouched cost
REFERENCE_DROP, REFERENCE_COST = 0.5, 1.1
#: a gap to the original's outputs below which recovery sees nothing left to do
NEARLY_LOSSLESS = 0.005


def coordinates(found: Measurement, untouched: Measurement, objectives: Sequence[str], direction: Direction) -> list[float]:
    """A measurement in units of the untouched model, every axis to be minimised: relative drop, relative costs."""
    row = []
    for name in objectives:
        value, base = found.get(name), untouched.get(name)
        if name == "metric":
            row.append(drop(value, base, direction) / max(abs(base), 1e-12))
        elif direction_of(name, direction) == "min":
            row.append(
                found.get("latency_ratio") if name == "latency_ms" and found.get("latency_ratio") is not None else value / max(base, 1e-12)
            )
        else:
            row.append(base / max(value, 1e-12))
    return row


def reference(objectives: Sequence[str]) -> list[float]:
    return [REFERENCE_DROP if name == "metric" else REFERENCE_COST for name in objectives]


def hypervolume(points: Iterable[Measurement], untouched: Measurement, objectives: Sequence[str], direction: Direction) -> float:
    """Share-free volume between the points and the reference corner, in units of the untouched model."""
    rows = [coordinates(point, untouched, objectives, direction) for point in points]
    return pareto.hypervolume(np.array(rows), np.array(reference(objectives))) if rows else 0.0


def superseded(entries: Sequence[Entry]) -> list[Entry]:
    """The entries; one whose file was lost and made again by a later trial counts as a repeat of that trial."""
    newer = {entry.memo[REMAKES]: entry.number for entry in entries if REMAKES in entry.memo and isinstance(entry.outcome, Done)}

    def last(number: int) -> int:
        return last(newer[number]) if number in newer else number

    return [replace(entry, cached_from=last(entry.number)) if entry.number in newer else entry for entry in entries]


def rejudged(entries: Sequence[Entry], context: Mapping[str, Any]) -> list[Entry]:
    """The entries with violations of the budget that holds now; the record keeps those of the run that made them."""
    found = []
    for entry in superseded(entries):
        outcome = entry.outcome
        if isinstance(outcome, Done | Rejected):
            broken = context["budget"].violations(outcome.measurement, context["untouched"], context["metric_direction"])
            entry = replace(entry, outcome=replace(outcome, violations=broken))
        found.append(entry)
    return found


def is_rival(entry: Entry) -> bool:
    """The untouched model and the trivial rivals are shown in every report, dominated or not."""
    return entry.label == "untouched" or entry.label.startswith("uniform")


def labelled(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the labels of rivals moved to the trial that was evaluated for them, under whatever name it was."""
    labels: dict[str, str] = {}
    for entry in entries:
        if is_rival(entry):
            labels.setdefault(entry.key, entry.label)
    return [replace(entry, label=labels[entry.key]) if entry.key in labels else entry for entry in entries]


def select_front(
    entries: Sequence[Entry], untouched: Measurement, objectives: Sequence[str], direction: Direction, most: int
) -> list[Entry]:
    """The entries worth verifying, at most ``most``: feasible ones if there are any. The non-dominated; on up to half of the places, and
    on those that a short front leaves, nearly lossless points that are non-dominated when the metric's place is taken by the gap to the
    original's outputs, spread evenly over the costs, since points whose metric on few samples is equal are not equally faithful; then
    what is non-dominated without all these, and so on, since within the noise of a measurement the next layer may be the better one."""
    done = [entry for entry in entries if isinstance(entry.outcome, Done) and entry.cached_from is None]
    unique = list({entry.key: entry for entry in reversed(done)}.values())[::-1]
    good = [entry for entry in unique if feasible(entry.outcome.violations)] or unique
    if not good:
        return []
    rows = np.array([coordinates(entry.outcome.measurement, untouched, objectives, direction) for entry in good])
    rivals = [i for i, entry in enumerate(good) if is_rival(entry)]  # they are verified anyway
    gaps = np.array([entry.outcome.measurement.facts.get("gap", math.nan) for entry in good], dtype=float)
    front = np.flatnonzero(pareto.front(rows))
    offered = [i for i in faithful(rows, gaps) if gaps[i] < NEARLY_LOSSLESS and i not in {*front, *rivals}]
    chosen = thinned(rows, front, most - min(len(offered), most // 2), np.array(reference(objectives)))
    chosen += spread(rows[:, 1:], [*chosen, *rivals], offered, most - len(chosen))
    rest = np.setdiff1d(np.arange(len(good)), chosen)
    while len(rest) and len(chosen) < most:
        layer = rest[pareto.front(rows[rest])]
        chosen += thinned(rows, layer, most - len(chosen), np.array(reference(objectives)))
        rest = np.setdiff1d(rest, layer)
    return [good[i] for i in sorted(chosen)]


def faithful(rows: np.ndarray, gaps: np.ndarray) -> list[int]:
    """Indices of the points that are non-dominated in (gap, costs); a gap (n,) that is not known is nan."""
    known = np.flatnonzero(np.isfinite(gaps))
    return [int(i) for i in known[pareto.front(np.column_stack([gaps[known], rows[known, 1:]]))]]


def spread(costs: np.ndarray, near: Sequence[int], offered: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of ``offered``, one after the other that which is farthest, in logarithms of ``costs`` (n, k), from those and from
    ``near`` (farthest-point sampling, Gonzalez 1985)."""
    places, found, left = np.log(np.maximum(costs, 1e-9)), [], list(offered)
    while left and len(found) < most:
        far = [min((float(np.linalg.norm(places[i] - places[j])) for j in (*near, *found)), default=math.inf) for i in left]
        found.append(left.pop(int(np.argmax(far))))
    return found


def thinned(rows: np.ndarray, layer: np.ndarray, most: int, corner: np.ndarray) -> list[int]:
    """At most ``most`` of the points ``layer`` (indices into ``rows``): those at the ends of each axis stay, of the others the
    one that adds least hypervolume goes first."""
    order = list(layer)
    while len(order) > most:
        whole = pareto.hypervolume(rows[order], corner)
        ends = {int(np.argmin(rows[order][:, axis])) for axis in range(rows.shape[1])} if most >= rows.shape[1] else set()
        loss = [math.inf if i in ends else whole - pareto.hypervolume(np.delete(rows[order], i, axis=0), corner) for i in range(len(order))]
        order.pop(int(np.argmin(loss)))
    return [int(i) for i in order]


def front_row(entry: Entry, checked: Mapping[str, Any], context: Mapping[str, Any]) -> dict[str, Any]:
    """One row of front.csv from an entry and its verification."""
    outcome: Done = entry.outcome
    found, untouched, direction = outcome.measurement, context["untouched"], context["metric_direction"]
    metric, lost, time, ratio = checked["metric"], checked["drop"], checked["latency_ms"], checked["latency_ratio"]
    verified = Measurement(
        {
            **found.values,
            **{name: Value(**checked[name]) for name in ("latency_ms", "latency_ratio", "throughput")},
            **own_ratio(entry.label),
            "peak_memory_bytes": Value(checked["peak_memory_bytes"]),
            **({"energy_mj": Value(**checked["energy_mj"])} if "energy_mj" in checked else {}),
        }
    )
    broken = context["budget"].violations(verified, untouched, direction)
    label = "" if entry.label == "corner" else entry.label
    return {
        "schema_version": SCHEMA_VERSION,
        "key": entry.key,
        "label": label,
        "feasible": feasible(broken),
        "metric": context["metric_name"],
        "metric_direction": direction,
        "metric_val": found.get("metric"),
        "metric_test": metric["value"],
        "metric_test_low": metric["low"],
        "metric_test_high": metric["high"],
        "drop_test": lost["value"],
        "drop_test_low": lost["low"],
        "drop_test_high": lost["high"],
        "n_test": checked["n"],
        "latency_ms": time["value"],
        "latency_ms_low": time["low"],
        "latency_ms_high": time["high"],
        "latency_ratio": ratio["value"],
        "latency_ratio_low": ratio["low"],
        "latency_ratio_high": ratio["high"],
        "size_bytes": checked["size_bytes"],
        "size_ratio": checked["size_bytes"] / untouched.get("size_bytes"),
        "macs": found.get("macs"),
        "params": found.get("params"),
        "peak_memory_bytes": checked["peak_memory_bytes"],
        "target": context["target"],
        "threads": untouched.facts["threads"],
        "batch": untouched.facts["batch"],
        "model_file": checked["model_file"],
        "recipe_file": checked["recipe_file"],
        "sha256": checked["sha256"],
        "throughput": checked["throughput"]["value"],
        "latency_p95_ms": checked["latency_p95_ms"],
        "drop_val": drop(found.get("metric"), untouched.get("metric"), direction),
        "drop_expected": drop_expected(found, context),
        "test_split": checked["split"],
        "summary": describe(outcome.recipe),
        "outside": entry.number == NO_TRIAL,
        "metric_val_low": found.values["metric"].low,
        "metric_val_high": found.values["metric"].high,
        "gap": found.facts.get("gap"),
        **energy_columns(checked),
    } | {f"metric_{name}": value for name, value in checked["others"].items()}


def drop_expected(found: Measurement, context: Mapping[str, Any]) -> float | None:
    """The drop that the gap of a file stands for, weighed with the drop on validation data; None where the study learned no such law, or where
    the metric has no interval by which to weigh."""
    law, gap, metric, base = context.get("loss"), found.facts.get("gap"), found.values["metric"], context["untouched"].get("metric")
    if law is None or gap is None or metric.low is None or metric.high <= metric.low:
        return None
    told = float(law([gap])[0]) * abs(base)
    return weighed(told, drop(metric.value, base, context["metric_direction"]), (metric.high - metric.low) / (2 * 1.96))


def own_ratio(label: str) -> dict[str, Value]:
    """The untouched model takes all of its own time, whatever two timings of its file say."""
    return {"latency_ratio": Value(1.0)} if label == "untouched" else {}


def energy_columns(checked: Mapping[str, Any]) -> dict[str, float | None]:
    """Energy of one run in mJ with its interval, of a point whose energy was asked for."""
    told = checked.get("energy_mj")
    return {} if told is None else {"energy_mj": told["value"], "energy_mj_low": told["low"], "energy_mj_high": told["high"]}


def trial_row(entry: Entry) -> dict[str, Any]:
    """One row of trials.csv; empty where nothing was measured."""
    outcome = entry.outcome
    row: dict[str, Any] = dict.fromkeys(TRIAL_COLUMNS, None)
    row |= {
        "number": entry.number,
        "key": entry.key,
        "label": entry.label,
        "cached_from": entry.cached_from,
        "point": json.dumps(dict(entry.point), sort_keys=True),
    }
    if outcome is None:
        return row | {"end": "running"}
    row |= {"end": type(outcome).__name__.lower(), "seconds": json.dumps(dict(outcome.seconds))}
    if isinstance(outcome, Failed):
        return row | {"reason": outcome.reason, "detail": outcome.detail}
    found = outcome.measurement
    row |= {name: found.get(name) for name in ("latency_ms", "latency_ratio", "size_bytes", "macs", "params", "peak_memory_bytes")}
    row |= {"energy_mj": found.get("energy_mj")} if "energy_mj" in found.values else {}
    time = found.values.get("latency_ms")
    if time is not None:
        row |= {"latency_ms_low": time.low, "latency_ms_high": time.high}
    if isinstance(outcome, Rejected):
        row["rung"] = outcome.rung
    return row | {
        "metric_val": found.get("metric"),
        "feasible": feasible(outcome.violations),
        "violations": json.dumps(dict(outcome.violations)),
        "summary": describe(outcome.recipe),
        "recipe": json.dumps(outcome.recipe.as_dict(), sort_keys=True),
    }


def violations_of(row: Mapping[str, Any], budget: Any, untouched: Measurement) -> dict[str, float]:
    """Violations of a row of front.csv under any budget, for answering a new one."""
    values = {
        "metric": Value(row["metric_val"]),
        "latency_ms": Value(row["latency_ms"], row["latency_ms_low"], row["latency_ms_high"]),
        "latency_ratio": Value(row["latency_ratio"], row["latency_ratio_low"], row["latency_ratio_high"]),
        **own_ratio(row["label"]),
        "size_bytes": Value(row["size_bytes"]),
        "macs": Value(row["macs"]),
        "peak_memory_bytes": Value(row["peak_memory_bytes"]),
    }
    return budget.violations(Measurement(values), untouched, row["metric_direction"])


def counts(entries: Sequence[Entry]) -> dict[str, Any]:
    """How the candidates ended."""
    judged = [entry for entry in entries if entry.cached_from is None]
    return {
        "asked": len(entries),
        "evaluations": sum(
            entry.outcome is not None and not (isinstance(entry.outcome, Failed) and entry.outcome.reason == "interrupted")
            for entry in judged
        ),
        "done": sum(isinstance(entry.outcome, Done) for entry in judged),
        "cache_hits": sum(entry.cached_from is not None for entry in entries),
        "rejected": dict(Counter(entry.outcome.rung for entry in judged if isinstance(entry.outcome, Rejected))),
        "failed": dict(Counter(entry.outcome.reason for entry in judged if isinstance(entry.outcome, Failed))),
    }


def phase_seconds(entries: Sequence[Entry]) -> dict[str, float]:
    """Seconds of all workers together per phase of a candidate."""
    total: Counter[str] = Counter()
    for entry in entries:
        if entry.outcome is not None and entry.cached_from is None:
            total.update(entry.outcome.seconds)
    return {name: round(value, 3) for name, value in sorted(total.items())}


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> Any:
    """A pandas table with the columns of the contract first."""
    import pandas as pd

    extra = [name for row in rows for name in row if name not in columns]
    return pd.DataFrame(list(rows), columns=[*columns, *dict.fromkeys(extra)])
