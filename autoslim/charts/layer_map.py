"""What the chosen point does to each layer: channels kept, bits, rank and sparsity, one row a layer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.charts._ink import draw
from autoslim.formats import stored_bits

COLUMNS = ("channels", "rank", "sparsity", "bits")


class Member:
    """Shares of the original: 1 is untouched, 0 is gone."""

    title = "What the chosen point does to each layer"

    def numbers(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """{"layers": [names], "columns": [...], "shares": [[share per column] per layer], "words": the same as text}."""
        coverage, recipe = tables["coverage"], tables["chosen_recipe"]
        techniques = recipe["techniques"] if recipe else {}
        gone = set(techniques.get("depth", {}))
        groups = {layer: group for group in coverage["groups"] for layer in group["producers"]}
        layers, shares, words = [], [], []
        for layer in coverage["layers"]:
            name = layer["name"]
            group = groups.get(name)
            row: list[float] = []
            said: list[str] = []
            for column in COLUMNS:
                value = techniques.get(column, {}).get(group["name"] if column == "channels" and group else name)
                share, word = share_of(column, value, group)
                row.append(share)
                said.append(word)
            if any(name.startswith(block + ".") for block in gone):
                row, said = [0.0] * len(COLUMNS), ["removed"] + [""] * (len(COLUMNS) - 1)
            layers.append(name)
            shares.append(row)
            words.append(said)
        return {"layers": layers, "columns": list(COLUMNS), "shares": shares, "words": words}

    def ink(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Draw to a PNG or SVG file; at most 60 layers, the largest networks are in the table."""
        layers, shares, words = (numbers[name][:60] for name in ("layers", "shares", "words"))

        def paint(axes: Any) -> None:
            axes.imshow(shares, cmap="YlGnBu", vmin=0, vmax=1.3, aspect="auto")
            axes.set_xticks(range(len(COLUMNS)), COLUMNS)
            axes.set_yticks(range(len(layers)), layers, fontsize=7)
            axes.grid(False)
            for y, row in enumerate(words):
                for x, word in enumerate(row):
                    axes.text(x, y, word, ha="center", va="center", fontsize=7)

        draw(path, paint, (6.0, 1.0 + 0.22 * max(len(layers), 1)))


def share_of(column: str, value: Any, group: Mapping[str, Any] | None) -> tuple[float, str]:
    """(share of the original, word for the cell) of one step; untouched where there is none."""
    if value is None:
        return 1.0, "32" if column == "bits" else ""
    if column == "channels":
        return value / group["size"], f"{value}/{group['size']}"
    if column == "bits":
        return stored_bits(value) / 32, str(value)
    if isinstance(value, Mapping) and "share" not in value:
        return 1.0, " ".join(f"{key} {part}" for key, part in value.items())  # a threshold: how many weights it takes is not in the recipe
    share = value["share"] if isinstance(value, Mapping) else float(value)
    return (1 - share if column == "sparsity" else share), f"{share:g}"
