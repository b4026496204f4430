"""What the loop says while it runs, which files it still needs, and the answer to a budget that nothing can meet."""

import shutil
import time
from typing import Any

from autoslim import tables
from autoslim.budget import RATIO, feasible
from autoslim.candidate import Done, Rejected
from autoslim.ending import reserve
from autoslim.growth import Growth
from autoslim.loop import Loop, Progress
from autoslim.study import Entry

#: files kept during a search, as a multiple of those that get verified: what is near the front now may be on it later
SPARE = 3
#: ends between two weighings of what to keep: one costs more than the files of so few candidates
TURN = 8


def prune_files(loop: Loop, prepared: Any) -> None:
    """Delete the files of candidates that are dominated and carry no label, at every TURN-th call. What lost its file before is not weighed
    again."""
    loop.unpruned += 1
    if loop.unpruned < TURN:
        return
    loop.unpruned = 0
    folders = {folder.name: folder for folder in (loop.out / "candidates").glob("*")}
    there = loop.entries.of_keys(folders)
    front = tables.select_front(there, prepared.untouched, loop.spec.objectives, prepared.metric_direction, SPARE * loop.spec.verify)
    keep = {entry.key for entry in (*front, *loop.outsiders)} | set(loop.entries.rivals)
    keep |= {candidate.recipe.key for candidate in loop.running.values()}
    for name, folder in folders.items():
        if name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def begin_growth(loop: Loop, prepared: Any) -> None:
    """Take up hypervolume and best candidate from what earlier runs recorded."""
    loop.growth, loop.best, loop.earlier = Growth(tables.reference(loop.spec.objectives)), None, loop.entries.evaluations
    for entry in sorted(loop.entries, key=lambda entry: entry.number):
        if entry.cached_from is None and entry.outcome is not None:
            grow(loop, prepared, entry)


def grow(loop: Loop, prepared: Any, entry: Entry) -> float:
    """The hypervolume with one more evaluation; keeps the best feasible candidate."""
    place = None
    if isinstance(entry.outcome, Done) and feasible(entry.outcome.violations):
        place = tables.coordinates(entry.outcome.measurement, prepared.untouched, loop.spec.objectives, prepared.metric_direction)
        if loop.best is None or sum(place) < loop.best[0]:
            loop.best = sum(place), entry
    return loop.growth.add(place)


def report_progress(loop: Loop, prepared: Any, number: int) -> None:
    """Tell the watcher what trial ``number`` gave, the best feasible so far, the hypervolume and the time left."""
    latest = loop.entries.of(number)
    volume = grow(loop, prepared, latest)
    count = loop.entries.evaluations
    spent = time.monotonic() - loop.begun
    mine = count - loop.earlier
    eta = loop.spent_in("search") / mine * max(0, loop.spec.trials - count) + reserve(loop) if mine > 2 else None
    if loop.spec.time is not None:
        eta = min(eta or loop.spec.time, max(0.0, loop.spec.time - spent))
    best = None if loop.best is None else loop.best[1]
    loop.watcher.trial(Progress(latest, count, loop.spec.trials, best, volume, spent, eta))


def check_floor(loop: Loop, prepared: Any) -> None:
    """A limit that nothing measured so far meets, the strongest corners among it, is answered at once with the smallest value measured."""
    budget = loop.spec.limits()
    for name in budget.limits:
        judge = budget.judged_by(name)
        measured, bound = floor_of(loop, judge), budget.threshold(name, prepared.untouched)
        if measured is not None and bound is not None and measured > bound:
            loop.watcher.message(
                f"--budget-{name.replace('_', '-')}: {show(judge, bound)} cannot be met: {show(judge, measured)} is the smallest measured, with "
                f"every choice of the search space at its strongest; no bound is proven. The closest points are verified and saved."
            )
            loop.stop.requested, loop.stop.reason = True, "floor"


def floor_of(loop: Loop, measured: str) -> float | None:
    """The smallest value so far of a quantity of METRICS."""
    values = [entry.outcome.measurement.get(measured) for entry in loop.entries if isinstance(entry.outcome, Done | Rejected)]
    return min((value for value in values if value is not None), default=None)


def show(measured: str, value: float) -> str:
    """A cost in the unit of its limit, as text: ms, MB (10^6 bytes), MACs, or a share of the untouched time."""
    if measured == RATIO:
        return f"{value:.4g} of the untouched model's time"
    unit = {"latency_ms": " ms", "size_bytes": " MB", "peak_memory_bytes": " MB", "macs": " MACs"}[measured]
    return f"{value / (1e6 if unit == ' MB' else 1):.4g}{unit}"
