"""summary.json: the study in a few dozen numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoslim import hindsight, recommending, tables
from autoslim.budget import feasible
from autoslim.candidate import Done
from autoslim.growth import Growth
from autoslim.metrics import Measurement
from autoslim.reporting.context import Material
from autoslim.study import Entry


def history(entries: Sequence[Entry], context: Mapping[str, Any]) -> list[float]:
    """Hypervolume after each evaluation, over the feasible candidates on validation data."""
    growth = Growth(tables.reference(context["objectives"]))
    for entry in entries:
        if entry.cached_from is not None or entry.outcome is None:
            continue
        counts = isinstance(entry.outcome, Done) and feasible(entry.outcome.violations)
        growth.add(place(entry.outcome.measurement, context) if counts else None)
    return growth.volumes


def spent(entries: Sequence[Entry]) -> list[float]:
    """Seconds of candidates, all workers together, up to the end of each evaluation that :func:`history` counts, in its order."""
    total, found = 0.0, []
    for entry in entries:
        if entry.cached_from is None and entry.outcome is not None:
            total += sum(entry.outcome.seconds.values())
            found.append(round(total, 3))
    return found


def where_time_went(seconds: Mapping[str, Any], workers: int) -> dict[str, float]:
    """{part: seconds} of ``summary["seconds"]``: steps of candidates, the controller, the run's phases but the search itself, whose parts
    those are, and the rest, so that the sum is the total. With several ``workers`` candidates run side by side and their steps alone are
    told, of all workers together."""
    if workers != 1:
        return dict(seconds["candidates"])
    before = seconds["prepare"]  # steps of the untouched model, which its preparation holds already
    steps = {name: round(value - before.get(name, 0.0), 3) for name, value in seconds["candidates"].items()}
    parts = {name: value for name, value in steps.items() if value > 0.001}
    phases = {name: value for name, value in seconds["phases"].items() if name != "search"}
    parts |= {"controller": seconds["controller"], **phases}
    rest = seconds["total"] - sum(parts.values())
    return {**parts, "rest": round(rest, 3)} if rest > 0 else parts


def place(found: Measurement, context: Mapping[str, Any]) -> list[float]:
    """Where a measurement lies in units of the untouched model."""
    return tables.coordinates(found, context["untouched"], context["objectives"], context["metric_direction"])


def phases_of(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The phases that any run went through, in their order."""
    return list(dict.fromkeys(name for run in runs for name in run.get("phases", {})))


def summarise(material: Material) -> dict[str, Any]:
    """The content of summary.json."""
    study, entries, rows, context = material.study, material.entries, material.offered, material.context
    budget, untouched, runs = context["budget"], context["untouched"], material.fact("runs") or []
    chosen = recommending.best(rows, context)
    good = [row for row in rows if row["feasible"]]
    done = [entry.outcome for entry in entries if isinstance(entry.outcome, Done) and feasible(entry.outcome.violations)]
    fastest = min(rows, key=lambda row: row["latency_ms"], default=None)
    broken = budget.violations(untouched, untouched, context["metric_direction"])
    return {
        "schema_version": tables.SCHEMA_VERSION,
        "study": study.name,
        "feasible": chosen is not None,
        "best": chosen,
        "closest": None if chosen is not None else material.chosen,
        "fastest_measured": fastest
        and {name: fastest[name] for name in ("key", "latency_ms", "latency_ms_high", "latency_ratio", "metric_test", "model_file")},
        "already_met_by_untouched": sorted(name for name, amount in broken.items() if amount <= 0 and name != "max_drop"),
        "budget": {name: budget.bound(name, untouched) for name in budget.limits},
        "time_share": budget.limits["ms"].amount if "ms" in budget.limits and budget.limits["ms"].relative else None,
        "max_drop": None if budget.max_drop is None else budget.max_drop.resolve(untouched.get("metric")),
        "verified": len(rows),
        "verified_feasible": len(good),
        "rivals_outside": [row["label"] for row in material.rows if row["outside"]],
        "no_rivals": material.no_rivals,
        "forecast": hindsight.quality(entries),
        "hypervolume": {
            "value": tables.hypervolume(
                (outcome.measurement for outcome in done), untouched, context["objectives"], context["metric_direction"]
            ),
            "reference": dict(zip(context["objectives"], tables.reference(context["objectives"]), strict=True)),
            "axes": "relative drop of the metric; costs as a ratio to the untouched model; validation data",
        },
        **tables.counts(entries),
        "stopped": runs[-1]["stopped"] if runs else "",
        "seconds": {
            "total": round(sum(run["seconds"] for run in runs), 2),
            "controller": round(sum(run["controller_seconds"] for run in runs), 3),
            "phases": {name: round(sum(run.get("phases", {}).get(name, 0.0) for run in runs), 2) for name in phases_of(runs)},
            "prepare": material.fact("prepare_seconds") or {},
            "candidates": tables.phase_seconds(entries),
        },
        "peak_bytes_of_run": max((run["peak_bytes"] or 0 for run in runs), default=0) or None,
        "environment": material.fact("environment"),
        "command": material.fact("command"),
    }
