"""What the chosen point does to each layer: a row per layer; columns for channels, rank, sparsity and bits, and for every other technique of the recipe."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim.charts._ink import draw
from autoslim.formats import stored_bits

#: always there, so that maps of several points are alike; other techniques of the recipe follow
COLUMNS = ("channels", "rank", "sparsity", "bits")


class Member:
    """Shares of the original: 1 is untouched (or a step that takes nothing away by itself), 0 is gone."""

    title = "What the chosen point does to each layer"

    def numbers(self, tables: Mapping[str, Any]) -> dict[str, Any]:
        """{"layers": [names], "columns": [...], "shares": [[share per column] per layer], "words": the same as text}."""
        coverage, recipe = tables["coverage"], tables["chosen_recipe"]
        techniques = recipe["techniques"] if recipe else {}
        gone = set(techniques.get("depth", {}))
        columns = [*COLUMNS, *sorted(name for name, units in techniques.items() if units and name not in (*COLUMNS, "depth"))]
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for group in coverage["groups"]:
            for layer in group["producers"]:
                groups.setdefault(layer, []).append(group)
        layers, shares, words = [], [], []
        for layer in coverage["layers"]:
            name = layer["name"]
            row: list[float] = []
            said: list[str] = []
            for column in columns:
                share, word = share_of(column, *found_for(column, techniques.get(column, {}), name, groups.get(name, [])))
                row.append(share)
                said.append(word)
            if any(name.startswith(block + ".") for block in gone):
                row, said = [0.0] * len(columns), ["removed"] + [""] * (len(columns) - 1)
            layers.append(name)
            shares.append(row)
            words.append(said)
        return {"layers": layers, "columns": columns, "shares": shares, "words": words}

    def ink(self, numbers: Mapping[str, Any], path: Path) -> None:
        """Draw to a PNG or SVG file; at most 60 layers, the largest networks are in the table."""
        layers, shares, words = (numbers[name][:60] for name in ("layers", "shares", "words"))

        def paint(axes: Any) -> None:
            axes.imshow(shares, cmap="YlGnBu", vmin=0, vmax=1.3, aspect="auto")
            axes.set_xticks(range(len(numbers["columns"])), numbers["columns"])
            axes.set_yticks(range(len(layers)), layers, fontsize=7)
            axes.grid(False)
            for y, row in enumerate(words):
                for x, word in enumerate(row):
                    axes.text(x, y, word, ha="center", va="center", fontsize=7)

        draw(path, paint, (3.0 + 0.75 * len(numbers["columns"]), 1.0 + 0.22 * max(len(layers), 1)))


def found_for(
    column: str, units: Mapping[str, Any], layer: str, groups: Sequence[Mapping[str, Any]]
) -> tuple[Any, Mapping[str, Any] | None]:
    """(value, group) that a technique's ``units`` decide for a layer: by its own name, by a group that it writes where that is what the
    technique decides on (groups bear the names of layers), or for the whole model."""
    for group in groups:
        if group["name"] in units and is_of_group(column, units[group["name"]]):
            return units[group["name"]], group
    return units.get(layer, units.get("")), None


def is_of_group(column: str, value: Any) -> bool:
    """Whether a technique's value is about all layers that write a group of channels or heads."""
    return column in ("channels", "heads") or isinstance(value, Mapping) and value.get("of") == "channels"


def share_of(column: str, value: Any, group: Mapping[str, Any] | None) -> tuple[float, str]:
    """(share of the original, word for the cell) of one step; untouched where there is none."""
    if value is None:
        return 1.0, "32" if column == "bits" else ""
    if column in ("channels", "heads") and group:
        keep = value["keep"] if isinstance(value, Mapping) else value
        if isinstance(keep, float):
            return keep, f"{keep:g} together"  # of several groups: how many each keeps is not in the recipe
        return keep / group["size"], f"{keep}/{group['size']}"
    if column == "bits":
        return stored_bits(value) / 32, str(value)
    if column == "qat":
        told = value["format"] if isinstance(value, Mapping) else value
        return stored_bits(told) / 32, str(told)
    if column == "codebook":
        bits = value["bits"] if isinstance(value, Mapping) else value
        return bits / 32, f"{bits} bits"
    if column not in ("rank", "sparsity", "gradual"):
        return 1.0, spoken(value)
    if isinstance(value, Mapping) and "share" not in value:
        return 1.0, spoken(value)  # a threshold: how many weights it takes is not in the recipe
    share = value["share"] if isinstance(value, Mapping) else float(value)
    return (share if column == "rank" else 1 - share), f"{share:g}"


def spoken(value: Any) -> str:
    """A step in words."""
    return " ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, Mapping) else str(value)
