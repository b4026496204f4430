"""From the record to shipped files: choose what to verify, put files in their places, re-open them in a fresh process."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim import tables
from autoslim.candidate import Done
from autoslim.errors import AutoSlimError
from autoslim.executors._process import Worker
from autoslim.job import Job
from autoslim.recipe import describe, to_yaml
from autoslim.study import Entry, Study

#: how many rounds of timing a verified file gets, spread over the whole verification; fewer where a file's ratio is known well
PASSES, ENOUGH_PASSES = 5, 4
#: what is verified, and how often it is timed, however late it is
FEWEST_FILES, FEWEST_PASSES = 4, 2


def verify(
    study: Study,
    job: Job,
    context: Mapping[str, Any],
    chosen: Sequence[Entry],
    say: Callable[[str], None],
    until: float | None = None,
    worker: Any = None,
) -> list[dict[str, Any]]:
    """Re-open the files of ``chosen`` in a process that made none of them, ``worker`` or a new one here; returns rows of verification.

    Rows go into the study one by one, so that an interruption loses none. A file that was verified before, and is where it was, is not timed
    again; one that fails its verification is dropped, and ``say`` tells why. From ``until`` (monotonic seconds) on no further file or round
    of timing is begun, but FEWEST_FILES are verified and each is timed FEWEST_PASSES times.
    """
    out = Path(job.out)
    known = {row["sha256"]: row for row in (study.fact("verified") or []) if row.get("rounds", 0) >= ENOUGH_PASSES}
    untouched = next(entry for entry in chosen if entry.label == "untouched")
    rows: list[dict[str, Any]] = []
    fresh: list[dict[str, Any]] = []
    worker = worker or Worker(out / "worker.log")
    try:
        worker.ask("verifier", job)
        for entry in chosen if until is None else by_worth(chosen, context):
            row = known.get(entry.outcome.sha256) if (out / model_place(entry)).is_file() else None
            if row is None and len(rows) >= FEWEST_FILES and until is not None and time.monotonic() > until:
                say(f"{entry.key} is not verified: the time is used up")
                continue
            if row is None:
                try:
                    row = verify_one(worker, out, entry, untouched, context)
                    fresh.append(row)
                except AutoSlimError as error:
                    say(f"verification of {entry.key} failed and the point is dropped: {error}")
                    continue
            rows.append(row)
            seen = {row["sha256"] for row in rows}
            study.set_fact("verified", rows + [row for sha, row in known.items() if sha not in seen])
            study.renew()
            say(f"verified {len(rows)} of {len(chosen)}")
        time_again(worker, study, out, fresh, str(out / model_place(untouched)), say, until)
    finally:
        worker.kill()
    places = {entry.outcome.sha256: place for place, entry in enumerate(chosen)}
    rows.sort(key=lambda row: places[row["sha256"]])
    study.set_fact("verified", rows)
    return rows


def time_again(
    worker: Worker,
    study: Study,
    out: Path,
    rows: list[dict[str, Any]],
    untouched: str,
    say: Callable[[str], None],
    until: float | None = None,
) -> None:
    """More rounds of timing for the rows of this run, all files in turn; updates the rows."""
    spent = 0.0
    for turn in range(1, PASSES):
        if until is not None and turn >= FEWEST_PASSES and time.monotonic() + spent > until:
            say(f"timed {turn} times instead of {PASSES}: the time is used up")
            return
        begun = time.monotonic()
        open_rows = [row for row in rows if row["rounds"] <= turn and not (row["converged"] and turn >= ENOUGH_PASSES)]
        if not open_rows:
            return
        files = [str(out / row["model_file"]) for row in open_rows]
        for row, found in zip(open_rows, worker.ask("clock", {"files": files, "untouched": untouched}), strict=True):
            if found is None:  # the rounds so far stand
                say(f"{row['key']} was timed {row['rounds']} times and no more: its file does not open any longer")
            row |= found or {}
        spent = time.monotonic() - begun
        study.renew()
        say(f"timed, round {turn + 1} of {PASSES}")


def verify_one(worker: Worker, out: Path, entry: Entry, untouched: Entry, context: Mapping[str, Any]) -> dict[str, Any]:
    """One row. Raises AutoSlimError if the file is gone, was changed, or does not run."""
    place(out, entry, context)
    files = {"file": str(out / model_place(entry)), "untouched": str(out / model_place(untouched)), "expected": entry.outcome.sha256}
    recipe_file = str(Path(model_place(entry)).with_name("recipe.yaml"))
    found = worker.ask("verify", files)
    return {**found, "key": entry.key, "number": entry.number, "model_file": model_place(entry), "recipe_file": recipe_file}


def to_verify(entries: Sequence[Entry], context: Mapping[str, Any], most: int) -> list[Entry]:
    """The untouched model, the rivals, and the front."""
    entries = tables.labelled(entries)
    labelled = [entry for entry in entries if isinstance(entry.outcome, Done) and entry.cached_from is None and tables.is_rival(entry)]
    front = tables.select_front(entries, context["untouched"], context["objectives"], context["metric_direction"], most)
    seen, chosen = set(), []
    for entry in (*labelled, *front):
        if entry.key not in seen:
            seen.add(entry.key)
            chosen.append(entry)
    return chosen


def by_worth(chosen: Sequence[Entry], context: Mapping[str, Any]) -> list[Entry]:
    """The entries in the order in which they are worth verifying where the time may not suffice for all: the untouched model, then
    worthiest_first; rivals from the FEWEST_FILES-th place on."""
    rivals = [entry for entry in chosen if entry.label != "untouched" and tables.is_rival(entry)]
    found = [entry for entry in chosen if entry.label == "untouched"]
    found += worthiest_first([entry for entry in chosen if entry not in (*found, *rivals)], context)
    return [*found[: FEWEST_FILES - 1], *rivals, *found[FEWEST_FILES - 1 :]]


def worthiest_first(entries: Sequence[Entry], context: Mapping[str, Any]) -> list[Entry]:
    """The entries in such an order that each adds most hypervolume to those before it; of equal ones the first stays first."""

    def volume(some: Sequence[Entry]) -> float:
        found = [entry.outcome.measurement for entry in some]
        return tables.hypervolume(found, context["untouched"], context["objectives"], context["metric_direction"])

    left, ordered = list(entries), []
    while left:
        ordered.append(left.pop(max(range(len(left)), key=lambda place: volume([*ordered, left[place]]))))
    return ordered


def has_file(out: Path, entry: Entry) -> bool:
    """Whether an entry's file is still there, among the candidates or in its place; entries without a file count as there."""
    if not isinstance(entry.outcome, Done):
        return True
    return (out / entry.outcome.model_file).is_file() or (out / model_place(entry)).is_file()


def model_place(entry: Entry) -> str:
    """Where a verified model lives, relative to the output folder."""
    if entry.label == "untouched":
        return entry.outcome.model_file
    return f"models/{entry.key}/{Path(entry.outcome.model_file).name}"


def place(out: Path, entry: Entry, context: Mapping[str, Any]) -> None:
    """Move a candidate's file to its place among the shipped models. Raises AutoSlimError where it is gone."""
    source, target = out / entry.outcome.model_file, out / model_place(entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file() and not target.is_file():
        raise AutoSlimError(f"{source} is gone; run `autoslim apply` on its recipe to make it again")
    if source != target and source.is_file():
        source.replace(target)
    metadata = {"key": entry.key, "task": context["task"], "runtime": context["target"], "summary": describe(entry.outcome.recipe)}
    target.with_name("recipe.yaml").write_text(to_yaml(entry.outcome.recipe, metadata), encoding="utf-8")


def tidy(out: Path, keep: set[str]) -> None:
    """Remove what the search needed and a user does not: shared float forms, emptied folders, models that left the front."""
    shutil.rmtree(out / "bases", ignore_errors=True)
    for folder in (out / "candidates").glob("*"):
        if not any(folder.glob("model.*")):  # moved to models/
            shutil.rmtree(folder, ignore_errors=True)
    for folder in (out / "models").glob("*"):
        if folder.name not in keep | {"untouched"}:
            shutil.rmtree(folder, ignore_errors=True)
