"""The one loop: ask, look up, submit, tell; then verify the front and write the output. Every part meets the others here."""

import itertools
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoslim import effects, host, plugins, report, shipping, tables
from autoslim.budget import LIMITS, feasible
from autoslim.candidate import Candidate, Done, Failed, Outcome, Rejected
from autoslim.errors import UserError
from autoslim.job import UNTOUCHED, Job
from autoslim.metrics import Measurement, direction_of
from autoslim.recipe import Recipe
from autoslim.space import SearchSpace
from autoslim.spec import StudySpec
from autoslim.study import Entry, Lease, Study

CORNER = "corner"
MOST_REPEATS = 8
#: losses of single choices are measured for as many as there are trials, and at least for so many
FEWEST_LOSSES = 32
#: files kept during a search, as a multiple of those that get verified: what is near the front now may be on it later
SPARE = 3


@dataclass
class Watcher:
    """What the loop tells whoever looks on. The default says nothing."""

    def phase(self, name: str) -> None: ...
    def prepared(self, prepared: Any) -> None: ...
    def trial(self, progress: "Progress") -> None: ...
    def message(self, text: str) -> None: ...


@dataclass(frozen=True)
class Progress:
    """One told trial and where the search stands."""

    entry: Entry
    evaluations: int
    planned: int
    best: Entry | None
    hypervolume: float
    seconds: float
    eta: float | None


@dataclass
class Stop:
    """Why the loop ended; set from outside by a signal handler."""

    requested: bool = False
    reason: str = ""


@dataclass
class Loop:
    """State of one run of the loop. Nothing here outlives the study's record but the models' files."""

    spec: StudySpec
    out: Path
    study: Study | None
    executor: Any
    watcher: Watcher
    stop: Stop
    begun: float
    entries: list[Entry] = field(default_factory=list)
    judged: dict[str, int] = field(default_factory=dict)
    running: dict[int, Candidate] = field(default_factory=dict)
    followers: dict[str, list[int]] = field(default_factory=dict)
    asking: float = 0.0


def run(
    spec: StudySpec, out: Path, watcher: Watcher, stop: Stop, storage: str | None = None, command: Sequence[str] = ()
) -> dict[str, Any]:
    """Search, or resume the search in ``out``; returns the summary that was written. Raises UserError or StudyInUse.

    Whatever ends the loop (trials, time, Ctrl-C), the front of what there is gets verified and the report is written.
    """
    begun = time.monotonic()
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
        )
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


def reconcile(loop: Loop, prepared: Any, command: Sequence[str]) -> Any:
    """Bring what was prepared and what an earlier run recorded together; returns what holds from now on."""
    study, spec = loop.study, loop.spec
    study.use(prepared.space)
    known = study.fact("untouched")
    identity = study.fact("identity")
    if identity is not None and identity != dict(prepared.identity):
        other = ", ".join(name for name in identity if identity[name] != prepared.identity.get(name))
        raise UserError(
            f"study {study.name}: it was begun with another {other}; results of unlike things do not mix, give another --out (or --study-name)"
        )
    if known is None:
        study.set_fact("identity", dict(prepared.identity))
        study.set_fact("untouched_sha256", prepared.untouched_sha256)
        study.set_fact("untouched", prepared.untouched.as_dict())
        study.set_fact("coverage", json.loads(json.dumps(prepared.coverage)))
        study.set_fact(
            "model",
            {
                "metric_name": prepared.metric_name,
                "metric_direction": prepared.metric_direction,
                "targets": prepared.has_targets,
                "notes": list(prepared.notes),
                "task": spec.task,
                "task_args": spec.task_args,
                "target": spec.runtime,
            },
        )
        study.set_fact("environment", host.facts())
        study.set_fact("prepare_seconds", dict(prepared.seconds))
    else:
        prepared = replace(prepared, untouched=Measurement.from_dict(known))
        loop.executor.attach(prepared)
    study.set_fact("command", list(command))
    study.set_fact("spec", spec_facts(spec))
    loop.watcher.prepared(prepared)
    loop.entries = tables.rejudged(
        study.entries(), {"budget": spec.limits(), "untouched": prepared.untouched, "metric_direction": prepared.metric_direction}
    )
    for entry in loop.entries:
        if entry.cached_from is None and is_judged(entry.outcome):
            loop.judged.setdefault(entry.key, entry.number)
    if not any(entry.label == "untouched" and isinstance(entry.outcome, Done) for entry in loop.entries):
        record_untouched(loop, prepared)
    return prepared


def spec_facts(spec: StudySpec) -> dict[str, Any]:
    """The spec as plain data for the record."""
    data = spec.model_dump(exclude={"budget"})
    data["objectives"] = list(spec.objectives)
    limits = spec.limits()
    data["budget"] = {name: [limit.amount, limit.relative] for name, limit in limits.limits.items()}
    data["max_drop"] = None if limits.max_drop is None else [limits.max_drop.amount, limits.max_drop.relative]
    return data


def is_judged(outcome: Outcome | None) -> bool:
    """Whether an end settles its recipe: not if the run ended first, nor if it was rejected for a limit that is wider now."""
    return outcome is not None and not is_interrupted(outcome) and not (isinstance(outcome, Rejected) and feasible(outcome.violations))


def is_interrupted(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.reason == "interrupted"


def record_untouched(loop: Loop, prepared: Any) -> None:
    """Candidate 0: the untouched model, measured in preparation."""
    recipe = Recipe()
    number = loop.study.ask(prepared.space.identity(), recipe, "untouched")
    broken = loop.spec.limits().violations(prepared.untouched, prepared.untouched, prepared.metric_direction)
    file = f"{UNTOUCHED}{plugins_suffix(loop.out)}"
    settle(
        loop,
        number,
        prepared,
        Done(prepared.untouched, broken, file, prepared.untouched_sha256, recipe, prepared.seconds),
        "untouched",
        recipe,
    )


def plugins_suffix(out: Path) -> str:
    """Ending of the untouched model's file."""
    return next(path.suffix for path in (out / UNTOUCHED).parent.glob("model.*") if path.suffix != ".partial")


def wants_tables(strategy: str) -> bool:
    return bool(getattr(plugins.find("strategies", strategy), "wants_tables", False))


def strategy_of(loop: Loop, prepared: Any) -> Any:
    """The strategy of the study, with the tables of single choices if it wants them."""
    spec = loop.spec
    told = {"tables": tables_of(loop, prepared)} if wants_tables(spec.strategy) else {}
    return plugins.load(
        "strategies",
        spec.strategy,
        space=prepared.space,
        objectives=[(name, direction_of(name, prepared.metric_direction)) for name in spec.objectives],
        constraints=spec.limits().names(),
        seed=spec.seed,
        **told,
        **spec.strategy_options,
    )


def tables_of(loop: Loop, prepared: Any) -> dict[str, Any]:
    """Tables of single choices, from the record where an earlier run of this study measured them for this space."""
    names = [[domain.name, [str(choice) for choice in domain.choices]] for domain in prepared.space.domains]
    known = loop.study.fact("tables")
    if known is not None and known["domains"] == names:
        return known["tables"]
    loop.watcher.phase("tables")
    begun = time.monotonic()
    base, measured = loop.executor.tables(effects.items(prepared.space, max(FEWEST_LOSSES, loop.spec.trials)), loop.watcher.message)
    found = effects.tables(prepared.space, base, measured, prepared.untouched.get("size_bytes")).as_dict()
    loop.study.set_fact("tables", {"domains": names, "tables": found, "seconds": round(time.monotonic() - begun, 2)})
    return found


def seeds(space: SearchSpace, trials: int, solved: bool = False) -> list[tuple[str, dict[str, Any]]]:
    """(label, point) to try before any strategy is asked: the corner that bounds everything, the rivals, and the uniform grid, which takes
    at most half of the trials; a strategy that solves for a front of its own (``solved``) needs no grid.
    """
    named = [(CORNER, space.strongest()), *space.rivals().items()]
    if solved:
        return named
    grid = [("", point) for point in space.grid()]
    return named + grid[: max(0, trials // 2 - len(named))]


def search(loop: Loop, prepared: Any) -> None:
    """Ask and tell until trials or time are used up, the space is exhausted, or somebody asks to stop."""
    spec, space = loop.spec, prepared.space
    strategy = strategy_of(loop, prepared)
    for entry in loop.entries:
        if is_judged(entry.outcome):
            strategy.tell(entry.number, entry.point, entry.memo, entry.outcome)
    tried = {json.dumps(dict(entry.point), sort_keys=True) for entry in loop.entries if is_judged(entry.outcome)}
    queue = iter(
        [
            (label, point)
            for label, point in seeds(space, spec.trials, wants_tables(spec.strategy))
            if json.dumps(point, sort_keys=True) not in tried
        ]
    )
    interrupted = [
        (entry.label, dict(entry.point))
        for entry in loop.entries
        if entry.outcome is not None and is_interrupted(entry.outcome) and entry.key not in loop.judged
    ]
    queue = itertools.chain(interrupted, queue)
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
        if loop.stop.requested and loop.stop.reason in ("interrupted", "floor"):
            abandon(loop, prepared)
            return


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


def ended(loop: Loop) -> bool:
    """Whether no further candidate may be asked."""
    count = tables.counts(loop.entries)["evaluations"] + len(loop.running)
    late = loop.spec.time is not None and time.monotonic() - loop.begun > loop.spec.time
    if late or count >= loop.spec.trials:
        loop.stop.reason = loop.stop.reason or ("time" if late else "trials")
        return True
    return loop.stop.requested


def propose(loop: Loop, prepared: Any, strategy: Any, queue: Iterator[tuple[str, dict[str, Any]]]) -> bool:
    """Ask for one candidate that is not judged yet and submit it; repeats are told from the record. False if none is left."""
    for _ in range(MOST_REPEATS * loop.spec.trials):
        begun = time.monotonic()
        label, point, memo = next_point(loop, strategy, queue)
        recipe = prepared.space.decode(point)
        number = loop.study.ask(point, recipe, label, memo)
        loop.asking += time.monotonic() - begun
        known = loop.judged.get(recipe.key)
        if known is not None:
            repeat = next(entry for entry in loop.entries if entry.number == known)
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


def remember(loop: Loop, entry: Entry) -> None:
    loop.entries = [other for other in loop.entries if other.number != entry.number] + [entry]


def settle(
    loop: Loop,
    number: int,
    prepared: Any,
    outcome: Outcome,
    label: str,
    recipe: Recipe,
    point: Mapping[str, Any] | None = None,
    memo: Mapping[str, Any] | None = None,
    cached_from: int | None = None,
) -> None:
    """Write an end to the study and to the loop's memory of it."""
    loop.study.tell(number, outcome, loop.spec.limits().names(), loop.spec.objectives, cached_from)
    entry = Entry(number, point or prepared.space.identity(), label, memo or {}, recipe.key, outcome, cached_from)
    remember(loop, entry)
    if cached_from is None and not is_interrupted(outcome):
        loop.judged.setdefault(recipe.key, number)


def tell(loop: Loop, prepared: Any, strategy: Any, candidate: Candidate, outcome: Outcome) -> None:
    """Record an end, teach the strategy, answer followers, drop files that nobody needs, report progress."""
    begun = time.monotonic()
    mine = next(entry for entry in loop.entries if entry.number == candidate.number)
    settle(loop, candidate.number, prepared, outcome, candidate.label, candidate.recipe, candidate.point, mine.memo)
    strategy.tell(candidate.number, candidate.point, mine.memo, outcome)
    for number in loop.followers.pop(candidate.recipe.key, []):
        follower = next(entry for entry in loop.entries if entry.number == number)
        settle(
            loop, number, prepared, outcome, follower.label, candidate.recipe, follower.point, follower.memo, cached_from=candidate.number
        )
        strategy.tell(number, follower.point, follower.memo, outcome)
    loop.asking += time.monotonic() - begun
    prune_files(loop, prepared)
    report_progress(loop, prepared, candidate.number)
    check_floor(loop, prepared, candidate.label, outcome)


def prune_files(loop: Loop, prepared: Any) -> None:
    """Delete the files of candidates that are dominated and carry no label."""
    front = tables.select_front(loop.entries, prepared.untouched, loop.spec.objectives, prepared.metric_direction, SPARE * loop.spec.verify)
    keep = (
        {entry.key for entry in front}
        | {entry.key for entry in loop.entries if tables.is_rival(entry)}
        | {c.recipe.key for c in loop.running.values()}
    )
    for folder in (loop.out / "candidates").glob("*"):
        if folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def report_progress(loop: Loop, prepared: Any, number: int) -> None:
    done = [entry for entry in loop.entries if isinstance(entry.outcome, Done)]
    good = [entry for entry in done if feasible(entry.outcome.violations)]
    best = min(
        good,
        key=lambda entry: sum(
            tables.coordinates(entry.outcome.measurement, prepared.untouched, loop.spec.objectives, prepared.metric_direction)
        ),
        default=None,
    )
    count = tables.counts(loop.entries)["evaluations"]
    spent = time.monotonic() - loop.begun
    eta = spent / max(count, 1) * (loop.spec.trials - count) if count > 2 else None
    if loop.spec.time is not None:
        eta = min(eta or loop.spec.time, max(0.0, loop.spec.time - spent))
    volume = tables.hypervolume(
        (entry.outcome.measurement for entry in good), prepared.untouched, loop.spec.objectives, prepared.metric_direction
    )
    latest = next(entry for entry in loop.entries if entry.number == number)
    loop.watcher.trial(Progress(latest, count, loop.spec.trials, best, volume, spent, eta))


def check_floor(loop: Loop, prepared: Any, label: str, outcome: Outcome | None) -> None:
    """A limit that even the strongest corner breaks is answered at once with the smallest value measured."""
    if label != CORNER or not isinstance(outcome, Done):
        return
    budget = loop.spec.limits()
    hard = {name: amount for name, amount in outcome.violations.items() if amount > 0 and name != "max_drop"}
    for name in hard:
        measured, bound = floor_of(loop, name), budget.bound(name, prepared.untouched)
        if measured is not None and measured > bound:
            loop.watcher.message(
                f"--budget-{name.replace('_', '-')}: {show(name, bound)} cannot be met: {show(name, measured)} is the smallest measured, with "
                f"channels, blocks and bits at their strongest; no bound is proven. The closest points are verified and saved."
            )
            loop.stop.requested, loop.stop.reason = True, "floor"


def floor_of(loop: Loop, limit: str) -> float | None:
    """The smallest value measured so far of a limit's quantity."""
    values = [entry.outcome.measurement.get(LIMITS[limit][0]) for entry in loop.entries if isinstance(entry.outcome, Done | Rejected)]
    return min((value for value in values if value is not None), default=None)


def show(limit: str, value: float) -> str:
    unit = {"ms": " ms", "mb": " MB", "memory_mb": " MB", "macs": " MACs"}[limit]
    return f"{value / (1e6 if unit == ' MB' else 1):.4g}{unit}"


def finish(loop: Loop) -> dict[str, Any]:
    """Verify the front, store how the run went, and write every file of the output contract."""
    loop.watcher.phase("verification")
    context = report.context_of(loop.study)
    there = [entry for entry in loop.entries if shipping.has_file(loop.out, entry)]
    chosen = shipping.to_verify(there, context, loop.spec.verify)
    verified = shipping.verify(loop.study, job_of(loop.spec, loop.out), context, chosen, loop.watcher.message)
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
