"""``autoslim status``: how a study stands and who works for it, also while it runs elsewhere."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _out


def add(app: typer.Typer) -> None:
    app.command("status", help="How far a study is, who writes it, and what its workers do. Example: autoslim status reports/digits")(
        status
    )


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a search.")],
    storage: Annotated[
        str | None, typer.Option("--storage", envvar="OPTUNA_STORAGE", help="The storage, if it is not the folder's journal.")
    ] = None,
    study_name: Annotated[str | None, typer.Option("--study-name", help="The study, if the storage holds several.")] = None,
) -> int:
    """Print where the study stands, without touching it; exit status 0."""
    from autoslim import reading, tables
    from autoslim.errors import UserError

    study = reading.read(folder, study_name, storage)
    entries = study.entries()
    counts = tables.counts(entries)
    planned = (study.fact("spec") or {}).get("trials")
    _out.say(f"study {study.name}: {counts['evaluations']} of {planned or '?'} evaluations")
    for line in (*ends_of(entries), lease_line(study.fact("lease"))):
        _out.say(f"  {line}")
    path = folder / "workers.json"
    if path.is_file():
        try:
            lines = worker_lines(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}: is damaged; the search that wrote it writes it again, or remove it") from None
        for line in lines:
            _out.say(line)
    return 0


def ends_of(entries: list) -> list[str]:
    """How many trials ended how, and which run."""
    kinds: dict[str, int] = {}
    for entry in entries:
        kind = "running" if entry.outcome is None else type(entry.outcome).__name__.lower()
        kinds[kind] = kinds.get(kind, 0) + 1
    running = [str(entry.number) for entry in entries if entry.outcome is None]
    return [", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing asked yet"] + (
        [f"under way: trial {', '.join(running)}"] if running else []
    )


def lease_line(lease: dict[str, Any] | None) -> str:
    if not lease or lease["until"] <= time.time():
        return "nobody writes it now; the same `autoslim search` goes on"
    return f"written by process {lease['pid']} on {lease['host']}"


def worker_lines(state: dict[str, Any]) -> list[str]:
    """The workers as the run last saw them."""
    age = time.time() - state["written"]
    counts = state["counts"]
    working = sum(row["name"] != "bench" for row in state["slots"])
    lines = [
        f"workers {age:.0f} s ago: {working} slots of {state['wanted']} wanted on {state['nodes']} nodes, bench "
        f"{state['bench'].removeprefix('bench:')}; {state['waiting']} items wait, {state['waiting_for_bench']} for the bench, {state['leased']} under way; "
        f"{counts['lost']} lost and done again, {counts['late']} late answers dropped"
    ]
    for row in sorted(state["slots"], key=lambda row: row["name"]):
        doing = row["doing"] or "idle"
        silent = f", silent for {row['silent_seconds']:.0f} s" if row["silent_seconds"] > 15 else ""
        lines.append(
            f"  {row['name']:<9} {row['host']} {row['address']} process {row['pid']}: {doing}, {row['items']} items, "
            f"{row['utilisation']:.0%} busy, life {row['lives']}{silent}"
        )
    return lines + [f"  trouble: {text.splitlines()[-1]}" for text in state["mishaps"]]
