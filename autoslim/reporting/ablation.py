"""What `autoslim ablate` measured, as the rows of ablation.csv and of the page."""

import json
from collections.abc import Mapping
from typing import Any

from autoslim.reporting.context import Material

COLUMNS = (
    "kind", "without", "point", "key", "end", "detail", "feasible", "metric_val", "metric_val_low", "metric_val_high", "drop_val", "latency_ms",
    "latency_ratio", "latency_ratio_low", "latency_ratio_high", "size_bytes", "size_ratio", "macs", "params", "evaluations", "hypervolume",
    "hypervolume_whole", "seconds", "summary", "recipe",
)  # fmt: skip


def rows(material: Material) -> list[dict[str, Any]]:
    """The rows of ablation.csv; none where nothing was taken apart."""
    found = []
    for told in material.fact("ablation") or []:
        row = {name: told.get(name) for name in COLUMNS}
        found.append(row | {"recipe": None if told.get("recipe") is None else json.dumps(told["recipe"], sort_keys=True)})
    return found


def shown(material: Material) -> dict[str, Any]:
    """What the page shows: {"point": its key or None, "rows": of the recipe, the whole first, each with its cost against the whole,
    "searches": of searches}."""
    told = rows(material)
    points = [row for row in told if row["kind"] == "point"]
    whole = next((row for row in points if row["without"] == ""), None)
    return {
        "point": whole and whole["point"],
        "rows": [row | against(row, whole) for row in points],
        "searches": [row | {"lost": row["hypervolume_whole"] - row["hypervolume"]} for row in told if row["kind"] == "search"],
    }


def against(row: Mapping[str, Any], whole: Mapping[str, Any] | None) -> dict[str, Any]:
    """{"metric_change", "time_factor", "bytes_factor"} of the recipe without a family against the whole one; None where one has no figures."""
    known = whole is not None and row["without"] and row["latency_ratio"] is not None and whole["latency_ratio"]
    return {
        "metric_change": row["metric_val"] - whole["metric_val"] if known else None,
        "time_factor": row["latency_ratio"] / whole["latency_ratio"] if known else None,
        "bytes_factor": row["size_bytes"] / whole["size_bytes"] if known else None,
    }
