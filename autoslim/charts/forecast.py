"""Predicted against measured latency: how well the strategy knew what it asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.charts._ink import FAINT, OWN, draw


class Member:
    """Milliseconds on both axes, in logarithms; on the line the forecast was right."""

    title = "Predicted against measured"

    def numbers(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """{"predicted": [...], "measured": [...]} of the points whose latency was forecast."""
        pairs = [pair for pair in tables.get("forecasts", {}).get("latency_ms", []) if min(pair) > 0]
        return {"predicted": [pair[0] for pair in pairs], "measured": [pair[1] for pair in pairs]}

    def ink(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Draw to a PNG or SVG file."""

        def paint(axes: Any) -> None:
            if numbers["predicted"]:
                ends = [min(numbers["predicted"] + numbers["measured"]), max(numbers["predicted"] + numbers["measured"])]
                axes.plot(ends, ends, color=FAINT, linewidth=0.8)
                axes.set_xscale("log")
                axes.set_yscale("log")
            axes.scatter(numbers["predicted"], numbers["measured"], s=14, color=OWN, rasterized=True)
            axes.set_xlabel("predicted latency, ms")
            axes.set_ylabel("measured latency, ms")

        draw(path, paint, (5.0, 4.2))
