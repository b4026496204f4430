"""The one loop: ask, look up, submit, tell; then verify the front and write the output. Every part meets the others here."""

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim import plugins, report, shipping, warming
from autoslim.candidate import Candidate, Failed, Outcome
from autoslim.ending import ended, overdue
from autoslim.job import Job
from autoslim.loop import Loop, Stop, Watcher, entry_of, is_interrupted, is_judged, remember, settle
from autoslim.metrics import direction_of
from autoslim.opening import CORNER, reconcile, seeds, strategy_of, wants_tables
from autoslim.progress import begin_growth, check_floor, prune_files, report_progress
from autoslim.remaking import remake
from autoslim.sharing import Shared
from autoslim.spec import StudySpec
from autoslim.study import Entry, Lease, Study

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
    begun = time.monotonic()
    if spec.warm_start:
        Study.read(Path(spec.warm_start))  # a folder without a study is told before any work
    lease = Lease(out)  # before any work, so that a second run learns it at once
    loop = Loop(spec, out, None, None, watcher, stop, begun)
    try:
        loop.executor = plugins.load(
            "executors",
            spec.executor,
            job=job_of(spec, out),
            workers=spec.workers,
            trial_timeout=spec.trial_timeout or 0.0,
            trial_memory_mb=float(spec.trial_memory_mb),
            **spec.executor_options,
        )
        loop.executor.say = watcher.message
        if cache is not None:
            loop.executor = Shared(loop.executor, job_of(spec, out), cache)
        try:
            watcher.phase("preparation")
            prepared = loop.executor.prepare()
            directions = [direction_of(name, prepared.metric_direction) for name in spec.objectives]
            loop.study = Study.open(out, spec.resolved_name(), directions, storage, lease)
            search(loop, reconcile(loop, prepared, command))
        finally:
            loop.executor.close()
        return finish(loop)
    finally:
        if loop.study is not None:
            loop.study.close()
        lease.release()


def job_of(spec: StudySpec, out: Path) -> Job:
    """What the workers are told."""
    return Job(
        task=spec.task,
        task_args=spec.task_args,
        runtime=spec.runtime,
        threads=spec.resolved_threads(),
        out=str(out.resolve()),
        budget=spec.limits(),
        objectives=spec.objectives,
        space=spec.space_content(),
        seed=spec.seed,
        max_samples=spec.max_samples,
        part=spec.part,
    )


def search(loop: Loop, prepared: Any) -> None:
    """Ask and tell until trials or time are used up, the space is exhausted, or somebody asks to stop."""
    strategy = strategy_of(loop, prepared)
    for entry in loop.entries:
        if is_judged(entry.outcome):
            strategy.tell(entry.number, entry.point, entry.memo, entry.outcome)
    tried = {json.dumps(dict(entry.point), sort_keys=True) for entry in loop.entries if is_judged(entry.outcome)}
    queue = iter([(label, point) for label, point in starts(loop, prepared) if json.dumps(point, sort_keys=True) not in tried])
    interrupted = [
        (entry.label, dict(entry.point))
        for entry in loop.entries
        if entry.outcome is not None and is_interrupted(entry.outcome) and entry.key not in loop.judged
    ]
    queue = itertools.chain(interrupted, queue)
    remake(loop, prepared)
    begin_growth(loop, prepared)
    loop.watcher.phase("search")
    for entry in loop.entries:
        if entry.label == CORNER and entry.cached_from is None:
            check_floor(loop, prepared, entry.label, entry.outcome)
    while True:
        while len(loop.running) < loop.executor.slots and not ended(loop):
            if not propose(loop, prepared, strategy, queue):
                break
        if not loop.running:
            return
        loop.study.renew()
        for candidate, outcome in loop.executor.outcomes(1.0):
            loop.running.pop(candidate.number)
            tell(loop, prepared, strategy, candidate, outcome)
        if overdue(loop) or loop.stop.requested and loop.stop.reason in ("interrupted", "floor"):
            loop.stop.reason = loop.stop.reason or "time"
            abandon(loop, prepared)
            return


def starts(loop: Loop, prepared: Any) -> list[tuple[str, dict[str, Any]]]:
    """What is tried before the strategy is asked: corner and rivals, then a finished study's front, then the uniform grid."""
    found = seeds(prepared.space, loop.spec.trials, wants_tables(loop.spec.strategy) or not loop.spec.grid)
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
            mine = next(entry for entry in loop.entries if entry.number == number)
            settle(loop, number, prepared, end, mine.label, prepared.space.decode(mine.point), mine.point)
    loop.running.clear()
    loop.followers.clear()


def propose(loop: Loop, prepared: Any, strategy: Any, queue: Iterator[tuple[str, dict[str, Any]]]) -> bool:
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
            repeat = entry_of(loop, known)
            settle(loop, number, prepared, repeat.outcome, label, recipe, point, memo, cached_from=known)
            strategy.tell(number, point, memo, repeat.outcome)
        elif recipe.key in {other.recipe.key for other in loop.running.values()}:
            loop.followers.setdefault(recipe.key, []).append(number)
            remember(loop, Entry(number, point, label, memo, recipe.key, None))
        else:
            candidate = Candidate(number, point, recipe, label)
            loop.running[number] = candidate
            remember(loop, Entry(number, point, label, memo, recipe.key, None))
            loop.executor.submit(candidate)
            return True
    loop.stop.requested, loop.stop.reason = True, loop.stop.reason or "the strategy proposes nothing new"
    return False


def next_point(loop: Loop, strategy: Any, queue: Iterator[tuple[str, dict[str, Any]]]) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    found = next(queue, None)
    if found is not None:
        return (*found, {})
    point, memo = strategy.ask(loop.study.next_number())
    return "", dict(point), memo


def tell(loop: Loop, prepared: Any, strategy: Any, candidate: Candidate, outcome: Outcome) -> None:
    """Record an end, teach the strategy, answer followers, drop files that nobody needs, report progress."""
    begun = time.monotonic()
    mine = entry_of(loop, candidate.number)
    settle(loop, candidate.number, prepared, outcome, candidate.label, candidate.recipe, candidate.point, mine.memo)
    strategy.tell(candidate.number, candidate.point, mine.memo, outcome)
    for number in loop.followers.pop(candidate.recipe.key, []):
        follower = entry_of(loop, number)
        settle(
            loop, number, prepared, outcome, follower.label, candidate.recipe, follower.point, follower.memo, cached_from=candidate.number
        )
        strategy.tell(number, follower.point, follower.memo, outcome)
    loop.asking += time.monotonic() - begun
    prune_files(loop, prepared)
    report_progress(loop, prepared, candidate.number)
    check_floor(loop, prepared, candidate.label, outcome)


def finish(loop: Loop) -> dict[str, Any]:
    """Verify the front, store how the run went, and write every file of the output contract."""
    loop.watcher.phase("verification")
    context = report.context_of(loop.study)
    there = [entry for entry in loop.entries if shipping.has_file(loop.out, entry)]
    wanted = shipping.to_verify(loop.entries, context, loop.spec.verify)
    if lost := [entry for entry in wanted if not shipping.has_file(loop.out, entry)]:
        loop.watcher.message(
            f"{len(lost)} points of the front cannot be verified, their files are gone from {loop.out} and could not be made again; "
            "another --out begins anew"
        )
    chosen = shipping.to_verify(there, context, loop.spec.verify)
    until = None if loop.spec.time is None else loop.begun + loop.spec.time
    job, verifier = job_of(loop.spec, loop.out), loop.executor.verifier()
    verified = shipping.verify(loop.study, job, context, chosen, loop.watcher.message, until=until, worker=verifier)
    spent = time.monotonic() - loop.begun
    runs = list(loop.study.fact("runs") or [])
    runs.append(
        {
            "seconds": round(spent, 2),
            "controller_seconds": round(loop.asking, 3),
            "stopped": loop.stop.reason or "trials",
            "slots": loop.executor.slots,
            "peak_bytes": getattr(loop.executor, "peak_bytes", None),
        }
    )
    loop.study.set_fact("runs", runs)
    loop.watcher.phase("report")
    summary = report.write(loop.study, loop.out)
    shipping.tidy(loop.out, {Path(row["model_file"]).parent.name for row in verified} | {entry.key for entry in chosen})
    return summary
