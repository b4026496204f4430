"""The per-layer map: what was done to each layer, and each layer's part of work, time and size before and after."""

from collections.abc import Mapping
from typing import Any

from autoslim.reporting.context import Material
from autoslim.reporting.singles import Singles


def layer_rows(
    material: Material, singles: Singles | None, map_numbers: Mapping[str, Any], point: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """One row per layer: {"layer", "kind", "done": {technique: word}, "params", "macs", and of each of "macs", "ms", "bytes" "share" before
    and "left" (after / before); None where nothing is known}. Before is counted or profiled; after is composed of single choices."""
    coverage = material.fact("coverage")
    words = dict(zip(map_numbers["layers"], map_numbers["words"], strict=True))
    before, after = costs(singles, point) if singles else ({}, {})
    totals = {cost: sum(values.values()) or 1.0 for cost, values in before.items()}
    rows = []
    for layer in coverage["layers"]:
        name = layer["name"]
        row = {"layer": name, "kind": layer["kind"], "params": layer["params"], "macs": layer["macs"]}
        row["done"] = dict(zip(map_numbers["columns"], words.get(name, ()), strict=False))
        row["removed"] = "removed" in row["done"].values()
        for cost in ("macs", "ms", "bytes"):
            known = before.get(cost, {}).get(name)
            row[f"{cost}_share"] = None if known is None else known / totals[cost]
            row[f"{cost}_left"] = None if not known else after[cost][name] / known
        if row["macs_share"] is None:
            row["macs_share"] = layer["macs"] / (coverage["macs"] or 1)
        rows.append(row)
    return rows


def costs(singles: Singles, point: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """({cost: {layer: value}} untouched, the same for the point)."""
    untouched, left = singles.layers({}), singles.layers(point)
    names = singles.tables.layers
    return (
        {cost: dict(zip(names, map(float, untouched[cost]), strict=True)) for cost in untouched},
        {cost: dict(zip(names, map(float, left[cost]), strict=True)) for cost in left},
    )
