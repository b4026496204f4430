"""Figures: every chart of the door, as PNG for documents and as SVG for papers; equal numbers give equal bytes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim import plugins
from autoslim.reporting.context import Material


def chart_tables(material: Material, summary: Mapping[str, Any], volumes: list[float]) -> dict[str, Any]:
    """What charts take their numbers from."""
    bound, untouched = summary["budget"], material.context["untouched"]
    limits = {"latency_ratio": bound["ms"] / untouched.get("latency_ms")} if "ms" in bound else {}
    limits |= {"size_kb": bound["mb"] / 1000} if "mb" in bound else {}
    chosen = material.chosen
    return {
        "front": material.rows,
        "trials": material.trials,
        "metric_name": material.context["metric_name"],
        "coverage": material.fact("coverage"),
        "chosen_recipe": material.points[chosen["key"]].outcome.recipe.as_dict() if chosen else None,
        "history": volumes,
        "limits": limits,
        "seconds": summary["seconds"]["candidates"],
        "forecasts": material.forecasts,
    }


def numbers(data: Mapping[str, Any]) -> dict[str, Any]:
    """{chart: its numbers} of every chart of the door."""
    return {name: plugins.load("charts", name).numbers(data) for name in plugins.names("charts")}


def draw(found: Mapping[str, Any], out: Path) -> None:
    """Every chart below ``out``/figures, in every form."""
    for name, values in found.items():
        plugins.load("charts", name).ink(values, out / "figures" / name)
