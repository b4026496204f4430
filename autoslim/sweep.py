"""Several studies as one sweep: which runs there are, how they share the slots, and the table that compares them."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.errors import UserError

COLUMNS = ("study", "status", "evaluations", "verified", "hypervolume", "metric", "latency_ratio", "size_ratio", "seconds")


@dataclass(frozen=True)
class Run:
    """One study of a sweep: its folder's name, and the words of `autoslim search` that are its own."""

    name: str
    words: tuple[str, ...]


def plan(studies: Sequence[str], seeds: Sequence[str], targets: Sequence[str]) -> list[Run]:
    """All studies x targets x seeds, seeds last, so that a run finds what a like one has measured. Raises UserError where two runs would
    have one name."""
    runs = []
    for seed, study, target in itertools.product(seeds or ("",), studies, targets or ("",)):
        name = "-".join(filter(None, (Path(study).stem, target, f"seed{seed}" if seed else "")))
        words = (study, *(("--target", target) if target else ()), *(("--seed", seed) if seed else ()))
        runs.append(Run(name, words))
    names = [run.name for run in runs]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"STUDIES: got {doubled[0]!r} twice; give study files of different names")
    return runs


def shares(slots: int, runs: int) -> list[int]:
    """How many slots each of the runs that go on together gets: all alike, at least one, the first ones take the rest. As long as there
    are enough, their sum is ``slots``."""
    together = max(1, min(slots, runs))
    return [slots // together + (place < slots % together) for place in range(together)] if slots else [1]


def row(run: Run, folder: Path, status: int | None) -> dict[str, Any]:
    """One line of the comparison, from what the run wrote; values that are not there are None."""
    found: dict[str, Any] = dict.fromkeys(COLUMNS)
    found |= {"study": run.name, "status": {0: "done", 3: "nothing feasible", 130: "interrupted"}.get(status, f"failed ({status})")}
    path = folder / "summary.json"
    if status not in (0, 3, 130) or not path.is_file():
        return found
    summary = json.loads(path.read_text(encoding="utf-8"))
    best: Mapping[str, Any] = summary["best"] or summary["closest"] or {}
    volume = summary["hypervolume"]
    return found | {
        "evaluations": summary["evaluations"],
        "verified": summary["verified"],
        "hypervolume": volume["value"] if isinstance(volume, Mapping) and "value" in volume else volume,
        "metric": best.get("metric_test"),
        "latency_ratio": best.get("latency_ratio"),
        "size_ratio": best.get("size_ratio"),
        "seconds": summary["seconds"]["total"],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows in columns, for a terminal."""
    cells = [list(COLUMNS)] + [[shown(line[name]) for name in COLUMNS] for line in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(COLUMNS))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def shown(value: Any) -> str:
    """A value of the table as text, '-' where there is none."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
