"""Where the time of the candidates went, phase by phase, all workers together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.charts._ink import OWN, draw


class Member:
    """Seconds per phase, the longest on top."""

    title = "Seconds per phase"

    def numbers(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """{"phases": [...], "seconds": [...]}, the shortest first."""
        order = sorted(tables.get("seconds", {}).items(), key=lambda pair: (pair[1], pair[0]))
        return {"phases": [name for name, _ in order], "seconds": [value for _, value in order]}

    def ink(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Draw to a PNG or SVG file."""

        def paint(axes: Any) -> None:
            axes.barh(numbers["phases"], numbers["seconds"], color=OWN)
            axes.set_xlabel("seconds, all workers")

        draw(path, paint, (6.0, 1.0 + 0.3 * max(len(numbers["phases"]), 1)))
