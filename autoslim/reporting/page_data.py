"""The numbers that the page's charts are drawn from: plain data, rounded to what an eye can see, columns instead of rows."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.budget import LIMITS
from autoslim.candidate import Done
from autoslim.reporting.context import Material
from autoslim.reporting.singles import positions, technique_of
from autoslim.reporting.summary import spent
from autoslim.reporting.words import places

#: axis -> (label, unit, better, column of verified points, column of trials, factor to the shown unit, limit that it is bound by)
AXES = {
    "latency_ms": ("latency", "ms", "min", "latency_ms", "latency_ms", 1.0, "ms"),
    "latency_ratio": ("latency, ratio to untouched", "", "min", "latency_ratio", "latency_ratio", 1.0, "ms"),
    "size_kb": ("size of the file", "kB", "min", "size_bytes", "size_bytes", 1e-3, "mb"),
    "macs": ("multiply-accumulates", "M", "min", "macs", "macs", 1e-6, "macs"),
    "params": ("parameters", "k", "min", "params", "params", 1e-3, None),
    "memory_mb": ("memory", "MB", "min", "peak_memory_bytes", "peak_memory_bytes", 1e-6, "memory_mb"),
    "throughput": ("throughput", "samples/s", "max", "throughput", None, 1.0, None),
    "energy_mj": ("energy", "mJ", "min", "energy_mj", "energy_mj", 1.0, None),
}
POINT_COLUMNS = (
    "key", "label", "feasible", "summary", "metric_val", "metric_val_low", "metric_val_high", "drop_val", "drop_expected", "metric_test", "metric_test_low",
    "metric_test_high", "drop_test", "drop_test_low", "drop_test_high", "latency_ms", "latency_ms_low", "latency_ms_high",
    "latency_ratio", "latency_ratio_low", "latency_ratio_high", "size_bytes", "size_ratio", "macs", "params", "peak_memory_bytes",
    "throughput", "energy_mj", "energy_mj_low", "energy_mj_high", "model_file", "outside",
)  # fmt: skip
TRIAL_COLUMNS = ("metric_val", "latency_ms", "latency_ratio", "size_bytes", "macs", "params", "peak_memory_bytes", "energy_mj")
ENDS = ("done", "rejected", "failed", "running")
DIGITS = 5


def page_data(material: Material, summary: Mapping[str, Any], volumes: Sequence[float]) -> dict[str, Any]:
    """Everything that the page's script needs."""
    context, chosen = material.context, material.chosen
    untouched = context["untouched"]
    return {
        "study": material.name,
        "metric": {
            "name": context["metric_name"],
            "direction": context["metric_direction"],
            "places": max(map(places, material.rows), default=4),
        },
        "objectives": list(context["objectives"]),
        "untouched": {name: untouched.get(name) for name in ("metric", *(LIMITS[limit][0] for limit in LIMITS), "params", "throughput")},
        "budget": limits_of(summary),
        "max_drop": summary["max_drop"],
        "axes": axes(material),
        "points": [{name: row.get(name) for name in POINT_COLUMNS if name in row} for row in material.rows],
        "chosen": chosen["key"] if chosen else None,
        "trials": trial_columns(material),
        "history": [digits(value) for value in volumes],
        "history_seconds": spent(material.entries),
        "forecasts": {name: [[digits(value) for value in pair] for pair in pairs] for name, pairs in material.forecasts.items()},
    }


def limits_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The limits as the script judges them: a share of the untouched time is one of its own."""
    found = {name: bound for name, bound in summary["budget"].items() if bound is not None}
    return (
        found
        if summary["time_share"] is None
        else {name: found[name] for name in found if name != "ms"} | {"time_share": summary["time_share"]}
    )


def axes(material: Material) -> list[dict[str, Any]]:
    """The axes that have a number to show, the leading metric first."""
    context = material.context
    metric = ("metric", context["metric_name"], "", context["metric_direction"], "metric_test", "metric_val", 1.0, None)
    found = []
    for name, label, unit, better, column, trial, factor, limit in [metric, *((name, *rest) for name, rest in AXES.items())]:
        if any(row.get(column) is not None for row in material.rows) or any(
            trial and row.get(trial) is not None for row in material.trials
        ):
            found.append(
                {
                    "id": name,
                    "label": label,
                    "unit": unit,
                    "better": better,
                    "column": column,
                    "trial": trial,
                    "factor": factor,
                    "limit": limit,
                }
            )
    return found


def trial_columns(material: Material) -> dict[str, Any]:
    """Trials that are no repeats, column by column; words are numbered, since many repeat."""
    shown = [(entry, row) for entry, row in zip(material.entries, material.trials, strict=True) if entry.cached_from is None]
    words: dict[str, int] = {}
    found: dict[str, Any] = {
        "number": [row["number"] for _, row in shown],
        "end": [ENDS.index(row["end"]) for _, row in shown],
        "feasible": [None if row["feasible"] is None else int(row["feasible"]) for _, row in shown],
        "key": [row["key"] for _, row in shown],
        "summary": [words.setdefault(row["summary"] or row["reason"] or "", len(words)) for _, row in shown],
        "rung": [words.setdefault(row["rung"] or "", len(words)) for _, row in shown],
    }
    for name in TRIAL_COLUMNS:
        if any(row.get(name) is not None for _, row in shown):
            found[name] = [digits(row.get(name)) for _, row in shown]
    found["strength"] = strengths(material, [entry for entry, _ in shown])
    return found | {"words": list(words)}


def strengths(material: Material, entries: Sequence[Any]) -> dict[str, list[float | None]]:
    """{technique: per trial how far its decisions went, from 0 (all at their mildest) to 1 (all at their strongest)}; None for trials that
    did not end as Done."""
    space = material.fact("space")
    if space is None:
        return {}
    places: dict[str, dict[str, tuple[Any, int]]] = {}
    for name, choices in json.loads(space):
        if len(choices) > 1:
            places.setdefault(technique_of(name), {})[name] = (positions(choices), len(choices) - 1)
    found: dict[str, list[float | None]] = {technique: [] for technique in places}
    for entry in entries:
        for technique, domains in places.items():
            mean = None
            if isinstance(entry.outcome, Done):
                steps = [(place(entry.point.get(name)) or 0) / last for name, (place, last) in domains.items()]
                mean = round(sum(steps) / len(steps), 3)
            found[technique].append(mean)
    return found


def digits(value: float | None) -> float | None:
    """A number with DIGITS significant digits; whole numbers stay whole."""
    if value is None or isinstance(value, int):
        return value
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def for_script(data: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or start a comment."""
    text = json.dumps(data, separators=(",", ":"), sort_keys=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
