"""The one report of a sweep: all runs in a table, and those of one task, data and runtime against each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim.errors import UserError
from autoslim.reporting import comparison, comparison_page
from autoslim.reporting.context import Material
from autoslim.study import Study
from autoslim.sweep import COLUMNS, shown


def write(out: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """``comparison.md`` in ``out``, where each run has a folder of its name, and a page for each group of like runs; returns the report.
    ``rows`` are those of :func:`autoslim.sweep.row`."""
    finished = [(row["study"], Material(Study.read(out / row["study"]))) for row in rows if row["verified"]]
    text = ["# Sweep", "", *markdown_table(rows)]
    for number, group in enumerate(groups([comparison.Side(name, material) for name, material in finished]), 1):
        if len(group) < 2:
            continue
        told, page = comparison.compare(group), out / f"compare-{number}.html"
        page.write_text(comparison_page.render(group, told), encoding="utf-8")
        text += ["", f"## {', '.join(side.name for side in group)}", "", f"Page: [{page.name}]({page.name})", ""]
        text += [comparison_page.markdown(told).strip()]
    path = out / "comparison.md"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def groups(found: Sequence[comparison.Side]) -> list[list[comparison.Side]]:
    """The studies whose figures may stand in one table, together."""
    made: list[list[comparison.Side]] = []
    for side in found:
        home = next((group for group in made if alike(group[0], side)), None)
        if home is None:
            made.append([side])
        else:
            home.append(side)
    return made


def alike(left: comparison.Side, right: comparison.Side) -> bool:
    """Whether two studies may be compared."""
    try:
        comparison.refuse_unlike(left, right)
    except UserError:
        return False
    return True


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines; the name of a run that was verified leads to its report."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        name = f"[{row['study']}]({row['study']}/report.html)" if row["verified"] else row["study"]
        lines.append("| " + " | ".join([name, *(shown(row[column]) for column in COLUMNS[1:])]) + " |")
    return lines
