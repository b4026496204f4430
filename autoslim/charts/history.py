"""How the front grew: hypervolume of the feasible candidates over the evaluations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.charts._ink import OWN, draw


class Member:
    """Hypervolume in units of the untouched model, on validation data."""

    title = "Hypervolume over the search"

    def numbers(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """{"evaluation": [1, 2, ...], "hypervolume": [...]}; cached repeats do not count."""
        return {"evaluation": list(range(1, len(tables["history"]) + 1)), "hypervolume": list(tables["history"])}

    def ink(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Draw to a PNG or SVG file."""

        def paint(axes: Any) -> None:
            axes.step(numbers["evaluation"], numbers["hypervolume"], where="post", color=OWN)
            axes.set_xlabel("evaluations")
            axes.set_ylabel("hypervolume")
            axes.set_ylim(bottom=0)

        draw(path, paint, (7.0, 3.0))
