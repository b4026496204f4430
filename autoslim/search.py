"""The one loop: ask, look up, submit, tell; then verify the front and write the output. Every part meets the others here."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim import host, plugins, recommending, report, rivals, shipping, warming
from autoslim.candidate import Candidate, Done, Failed, Outcome
from autoslim.ending import ended, overdue, spare
from autoslim.entries import is_interrupted
from autoslim.examining import Lasting, examine
from autoslim.executors._process import Scales
from autoslim.job import Job, timed_threads
from autoslim.loop import Loop, Stop, Watcher, is_judged, settle
from autoslim.metrics import direction_of
from autoslim.opening import CORNER, plans_its_start, reconcile, seeds, strategy_of
from autoslim.places import writable_folder
from autoslim.progress import begin_growth, check_floor, prune_files, report_progress
from autoslim.remaking import remake
from autoslim.sharing import Shared
from autoslim.spec import StudySpec
from autoslim.storage import backend, journal_of
from autoslim.study import Entry, Lease, Study
from autoslim.waiting import Queue

#: proposals of what is judged already, per trial, before the space counts as exhausted
MOST_REPEATS, MOST_PROPOSALS = 8, 2000


def run(
    spec: StudySpec,
    out: Path,
    watcher: Watcher,
    stop: Stop,
    storage: str | None = None,
    command: Sequence[str] = (),
    cache: Path | None = None,
) -> dict[str, Any]:
    """Search, or resume the search in ``out``; returns the summary that was written. Raises UserError or StudyInUse. ``cache`` is a folder
    of measured candidates that several studies share.

    Whatever ends the loop (trials, time, Ctrl-C), the front of what there is gets verified and the report is written.
    """
    if spec.warm_start:
        Study.read(Path(spec.warm_start))  # a folder without a study is told before any work
    if cache is not None:
        writable_folder(cache, "--cache")
    if journal_of(out, storage) is None:
        backend(out, storage)  # a database that cannot be opened is told before any work too
    with Scales() as scales:
        begun = time.monotonic()
        lease = Lease(out)  # before any work, so that a second run learns it at once
        loop = Loop(spec, out, None, None, watcher, stop, begun)
        try:
            loop.executor = executor_of(spec, out, watcher, cache)
            try:
                search(loop, opened(loop, lease, storage, command))
            finally:
                loop.executor.close()
            return finish(loop, scales)
        finally:
            if loop.study is not None:
                loop.study.close()
            lease.release()


def executor_of(spec: StudySpec, out: Path, watcher: Watcher, cache: Path | None) -> Any:
    """The executor of the study, behind the cache if there is one. Raises UserError for options that it does not take."""
    executor = plugins.load(
        "executors",
        spec.executor,
        job=job_of(spec, out),
        workers=spec.workers,
        trial_timeout=spec.trial_timeout or 0.0,
        trial_memory_mb=float(spec.trial_memory_mb),
        **spec.executor_options,
    )
    executor.say = watcher.message
    return executor if cache is None else Shared(executor, job_of(spec, out), cache)


def opened(loop: Loop, lease: Lease, storage: str | None, command: Sequence[str]) -> Any:
    """Prepare the untouched model and open the study of the loop; returns what was prepared, as the record knows it."""
    loop.enter("preparation")
    prepared = loop.executor.prepare()
    directions = [direction_of(name, prepared.metric_direction) for name in loop.spec.objectives]
    loop.study = Study.open(loop.out, loop.spec.resolved_name(), directions, storage, lease)
    loop.executor.beat = loop.study.renew
    prepared = reconcile(loop, prepared, command)
    if note := host.threads_note(job_of(loop.spec, loop.out).threads, bool(loop.spec.threads)):
        loop.watcher.message(note)
    return prepared


def job_of(spec: StudySpec, out: Path) -> Job:
    """What the workers are told."""
    return Job(
        task=spec.task,
        task_args=spec.task_args,
        runtime=spec.runtime,
        threads=spec.threads or timed_threads(out) or spec.resolved_threads(),
        out=str(out.resolve()),
        budget=spec.limits(),
        objectives=spec.objectives,
        space=spec.space_content(),
        seed=spec.seed,
        max_samples=spec.max_samples,
        part=spec.part,
        seconds=spec.time,
        places=spec.space_places(),
    )


def search(loop: Loop, prepared: Any) -> None:
    """Ask and tell until trials or time are used up, the space is exhausted, or somebody asks to stop."""
    remake(loop, prepared)
    begin_growth(loop, prepared)
    loop.enter("search")
    look_at_corner(loop, prepared)
    if not loop.stop.requested:
        rivals.measure(loop, prepared)
    if loop.stop.requested:
        return
    strategy = strategy_of(loop, prepared)
    for entry in loop.entries:
        if is_judged(entry.outcome):
            strategy.tell(entry.number, entry.point, entry.memo, entry.outcome)
    tried = {json.dumps(dict(entry.point), sort_keys=True) for entry in loop.entries if is_judged(entry.outcome)}
    fresh = [(label, point) for label, point in starts(loop, prepared) if json.dumps(point, sort_keys=True) not in tried]
    interrupted = [
        (entry.label, dict(entry.point))
        for entry in loop.entries
        if entry.outcome is not None and is_interrupted(entry.outcome) and entry.key not in loop.judged
    ]
    queue = Queue([*interrupted, *fresh])
    loop.enter("search")
    while True:
        while len(loop.running) < loop.executor.slots and not ended(loop):
            if not propose(loop, prepared, strategy, queue):
                break
        if not loop.running or not collect(loop, prepared, strategy):
            return


def collect(loop: Loop, prepared: Any, strategy: Any) -> bool:
    """Take in what ended; False if what is under way was abandoned."""
    loop.study.renew()
    for candidate, outcome in loop.executor.outcomes(1.0):
        loop.running.pop(candidate.number)
        tell(loop, prepared, strategy, candidate, outcome)
    if overdue(loop) or loop.stop.requested and loop.stop.reason in ("interrupted", "floor"):
        loop.stop.reason = loop.stop.reason or "time"
        abandon(loop, prepared)
        return False
    return True


class Deaf:
    """In the place of a strategy that is told everything once it is there."""

    def tell(self, *_: Any) -> None: ...


def look_at_corner(loop: Loop, prepared: Any) -> None:
    """Where the untouched model breaks a limit on what it costs, the strongest corners are measured before anything else, single choices too, until
    one of them keeps the limits: a limit that none meets is then answered at once. Where one cannot be made, nothing is known and nothing said."""
    if not costs_broken(loop, prepared, prepared.untouched):
        return
    for corner in prepared.space.corners():
        recipe = prepared.space.decode(corner)
        if not recipe.steps:  # a space without anything that saves
            return
        key = recipe.key
        if key not in loop.judged:
            propose(loop, prepared, Deaf(), Queue([(CORNER, corner)]))
        while loop.running:
            if not collect(loop, prepared, Deaf()):
                loop.stop.requested = True  # the time is over: rivals, single choices and the strategy are not begun
        outcome = loop.entries.of(loop.judged[key]).outcome if key in loop.judged else None
        if loop.stop.requested or not isinstance(outcome, Done) or not costs_broken(loop, prepared, outcome.measurement):
            return
    check_floor(loop, prepared)


def costs_broken(loop: Loop, prepared: Any, found: Any) -> bool:
    """Whether a measurement breaks a limit of this run on costs."""
    broken = loop.spec.limits().violations(found, prepared.untouched, prepared.metric_direction)
    return any(amount > 0 for name, amount in broken.items() if name != "max_drop")


def starts(loop: Loop, prepared: Any) -> list[tuple[str, dict[str, Any]]]:
    """What is tried before the strategy is asked: corner and rivals, then a finished study's front, then the uniform grid."""
    found = seeds(prepared.space, loop.spec.trials, plans_its_start(loop.spec.strategy) or not loop.spec.grid)
    warm = warming.points(loop, prepared) if loop.spec.warm_start else []
    named = [(label, point) for label, point in found if label]
    return [*named, *warm, *[(label, point) for label, point in found if not label]]


def abandon(loop: Loop, prepared: Any) -> None:
    """Close what is under way as interrupted; a later run of the same study takes it up again."""
    end = Failed("interrupted", "the run was stopped before this candidate ended")
    for candidate in list(loop.running.values()):
        settle(loop, candidate.number, prepared, end, candidate.label, candidate.recipe, candidate.point)
    for _key, numbers in loop.followers.items():
        for number in numbers:
            mine = loop.entries.of(number)
            settle(loop, number, prepared, end, mine.label, prepared.space.decode(mine.point), mine.point)
    loop.running.clear()
    loop.followers.clear()


def propose(loop: Loop, prepared: Any, strategy: Any, queue: Queue) -> bool:
    """Ask for one candidate that is not judged yet and submit it; repeats are told from the record. False if none is left."""
    for _ in range(min(MOST_REPEATS * loop.spec.trials, MOST_PROPOSALS)):
        if ended(loop):
            return False
        begun = time.monotonic()
        label, point, memo = next_point(loop, strategy, queue)
        recipe = prepared.space.decode(point)
        number = loop.study.ask(point, recipe, label, memo)
        loop.asking += time.monotonic() - begun
        known = loop.judged.get(recipe.key)
        if known is not None:
            repeat = loop.entries.of(known)
            settle(loop, number, prepared, repeat.outcome, label, recipe, point, memo, cached_from=known)
            strategy.tell(number, point, memo, repeat.outcome)
        elif recipe.key in {other.recipe.key for other in loop.running.values()}:
            loop.followers.setdefault(recipe.key, []).append(number)
            loop.entries.put(Entry(number, point, label, memo, recipe.key, None))
        else:
            candidate = Candidate(number, point, recipe, label, bool(memo.get("whole")))
            loop.running[number] = candidate
            loop.entries.put(Entry(number, point, label, memo, recipe.key, None))
            loop.executor.submit(candidate)
            return True
    loop.stop.requested, loop.stop.reason = True, loop.stop.reason or "the strategy proposes nothing new"
    return False


def next_point(loop: Loop, strategy: Any, queue: Queue) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """(label, point, memo) of the queue, and when that gives none, of the strategy."""
    found = queue.next(loop)
    if found is not None:
        return (*found, {})
    if hasattr(strategy, "spare"):
        strategy.spare = spare(loop)
    point, memo = strategy.ask(loop.study.next_number())
    return "", dict(point), memo


def tell(loop: Loop, prepared: Any, strategy: Any, candidate: Candidate, outcome: Outcome) -> None:
    """Record an end, teach the strategy, answer followers, drop files that nobody needs, report progress."""
    begun = time.monotonic()
    mine = loop.entries.of(candidate.number)
    settle(loop, candidate.number, prepared, outcome, candidate.label, candidate.recipe, candidate.point, mine.memo)
    strategy.tell(candidate.number, candidate.point, mine.memo, outcome)
    for number in loop.followers.pop(candidate.recipe.key, []):
        follower = loop.entries.of(number)
        settle(
            loop, number, prepared, outcome, follower.label, candidate.recipe, follower.point, follower.memo, cached_from=candidate.number
        )
        strategy.tell(number, follower.point, follower.memo, outcome)
    prune_files(loop, prepared)
    report_progress(loop, prepared, candidate.number)
    loop.asking += time.monotonic() - begun


def finish(loop: Loop, scales: Scales) -> dict[str, Any]:
    """Verify the front, store how the run went, and write every file of the output contract."""
    loop.enter("verification")
    context = report.context_of(loop.study)
    there = [entry for entry in loop.entries if shipping.has_file(loop.out, entry)]
    wanted = shipping.to_verify(loop.entries, context, loop.spec.verify)
    if lost := [entry for entry in wanted if not shipping.has_file(loop.out, entry)]:
        loop.watcher.message(
            f"{len(lost)} points of the front cannot be verified, their files are gone from {loop.out} and could not be made again; "
            "another --out begins anew"
        )
    chosen = shipping.to_verify(there, context, loop.spec.verify)
    keys = {entry.key for entry in chosen}
    chosen += [entry for entry in loop.outsiders if entry.key not in keys and shipping.has_file(loop.out, entry)]
    loop.study.set_fact(recommending.FACT, recommending.law_of(report.judged_entries(loop.study, context), context))
    until = None if loop.spec.time is None else loop.begun + loop.spec.time
    job, worker = job_of(loop.spec, loop.out), loop.executor.verifier() or shipping.Worker(loop.out / "worker.log")
    worker.beat = loop.study.renew
    verifier = Lasting(worker)
    try:
        verified = shipping.verify(loop.study, job, context, chosen, loop.watcher.message, until=until, worker=verifier)
        examine(loop.study, report.front_rows(loop.study), context, verifier, loop.out, loop.watcher.message, until)
    finally:
        verifier.close()
    loop.enter("report")
    spent = time.monotonic() - loop.begun
    mine = getattr(loop.executor, "peak_bytes", None)
    runs = list(loop.study.fact("runs") or [])
    runs.append(
        {
            "seconds": round(spent, 2),
            "controller_seconds": round(loop.asking, 3),
            "stopped": loop.stop.reason or "trials",
            "slots": loop.executor.slots,
            "phases": {name: round(seconds, 2) for name, seconds in loop.phases.items()},
            "peak_bytes": None if mine is None else max(mine, scales.peak_bytes),
        }
    )
    loop.study.set_fact("runs", runs)
    summary = report.write(loop.study, loop.out)
    shipping.tidy(loop.out, {Path(row["model_file"]).parent.name for row in verified} | {entry.key for entry in chosen})
    return summary
