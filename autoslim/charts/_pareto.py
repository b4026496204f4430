"""Metric against one cost: what the two Pareto charts share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.charts._ink import BAD, FAINT, OWN, RIVAL, draw


class ParetoChart:
    """A member names the cost's column, its interval's columns if there are any, and the axis label."""

    title: str
    axis: str
    low: str | None
    high: str | None
    label: str
    trial_axis: str

    def numbers(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """{"own", "rivals": [{x, x_low, x_high, y, y_low, y_high, name}], "others": [{x, y, feasible}], "limit": x or None}.

        Metrics of own and rivals are test scores; the others were only scored on validation data.
        """
        found: dict[str, Any] = {
            "own": [],
            "rivals": [],
            "others": [],
            "metric": tables["metric_name"],
            "limit": tables["limits"].get(self.axis),
        }
        for row in tables["front"]:
            row = row | {"size_kb": row["size_bytes"] / 1000}
            point = {
                "x": row[self.axis],
                "x_low": row[self.low] if self.low else None,
                "x_high": row[self.high] if self.high else None,
                "y": row["metric_test"],
                "y_low": row["metric_test_low"],
                "y_high": row["metric_test_high"],
                "name": row["label"] or row["key"],
                "feasible": row["feasible"],
            }
            found["rivals" if row["label"] else "own"].append(point)
        shown = {row["key"] for row in tables["front"]}
        for row in tables["trials"]:
            cost = row["size_bytes"] / 1000 if self.trial_axis == "size_kb" and row["size_bytes"] else row.get(self.trial_axis)
            if row["key"] not in shown and row["metric_val"] is not None and cost:
                found["others"].append({"x": cost, "y": row["metric_val"], "feasible": bool(row["feasible"])})
        return found

    def ink(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Draw to a PNG or SVG file."""

        def paint(axes: Any) -> None:
            """What was tried below, then rivals and own points with their intervals, then the limit if it is near."""
            for ok, colour, name in (
                (True, FAINT, "tried, within limits (validation)"),
                (False, BAD, "tried, a limit broken (validation)"),
            ):
                points = [point for point in numbers["others"] if point["feasible"] is ok]
                if points:
                    axes.scatter(
                        [p["x"] for p in points], [p["y"] for p in points], s=12, color=colour, label=name, zorder=1, rasterized=True
                    )
            for key, colour, marker, name in (("rivals", RIVAL, "s", "untouched and rivals (test)"), ("own", OWN, "o", "AutoSlim (test)")):
                points = numbers[key]
                if points:
                    axes.errorbar(
                        [p["x"] for p in points],
                        [p["y"] for p in points],
                        yerr=arms(points, "y"),
                        xerr=arms(points, "x"),
                        fmt=marker,
                        color=colour,
                        markersize=5,
                        linewidth=0.8,
                        capsize=2,
                        label=name,
                        zorder=3,
                    )
            for point in numbers["rivals"]:
                axes.annotate(point["name"], (point["x"], point["y"]), fontsize=7, color=RIVAL, xytext=(4, -9), textcoords="offset points")
            widest = max((point["x"] for key in ("own", "rivals", "others") for point in numbers[key]), default=0.0)
            if numbers["limit"] and numbers["limit"] <= 1.2 * widest:  # a limit far outside would squeeze the points
                axes.axvline(numbers["limit"], color=RIVAL, linestyle="--", linewidth=0.8)
            axes.set_xlabel(self.label)
            axes.set_ylabel(numbers["metric"])
            axes.set_xlim(left=0)
            axes.legend(fontsize=7, loc="lower right")

        draw(path, paint)


def arms(points: list[Mapping[str, Any]], name: str) -> list[list[float]] | None:
    """Error bars as matplotlib wants them, zero where there is no interval."""
    lows = [max(0.0, p[name] - p[f"{name}_low"]) if p[f"{name}_low"] is not None else 0.0 for p in points]
    highs = [max(0.0, p[f"{name}_high"] - p[name]) if p[f"{name}_high"] is not None else 0.0 for p in points]
    return [lows, highs] if any(lows + highs) else None
