"""Study -> files: summary, tables, figures, cards and one HTML page. A pure function of the record; needs no torch.

The rooms are in reporting/; this one joins them.
"""

import json
from pathlib import Path
from typing import Any

from autoslim.reporting import cards, figures, files, page
from autoslim.reporting.context import Material, context_of, done_by_key, front_rows, judged_entries
from autoslim.reporting.summary import history, summarise
from autoslim.reporting.words import answer, asides
from autoslim.study import Study


def write(study: Study, out: Path) -> dict[str, Any]:
    """Write everything into ``out`` and return the summary. Same study, same bytes of every table."""
    return write_material(Material(study), out)


def write_material(material: Material, out: Path) -> dict[str, Any]:
    """As :func:`write`, of a study that was read already."""
    out.mkdir(parents=True, exist_ok=True)
    summary = summarise(material)
    volumes = history(material.entries, material.context)
    files.write_tables(material, out)
    (out / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    written = cards.write_cards(material, out)
    numbers = figures.numbers(figures.chart_tables(material, summary, volumes))
    figures.draw(numbers, out)
    (out / "report.html").write_text(page.render(material, summary, volumes, numbers, written), encoding="utf-8")
    return summary


__all__ = [
    "Material",
    "answer",
    "asides",
    "context_of",
    "done_by_key",
    "front_rows",
    "history",
    "judged_entries",
    "summarise",
    "write",
    "write_material",
]
