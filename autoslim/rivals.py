"""The trivial rivals that a search space does not hold are made, measured and recorded (see ``outsiders.py``) before the search begins."""

from collections.abc import Mapping
from typing import Any

from autoslim import outsiders
from autoslim.candidate import Candidate, Failed, Outcome
from autoslim.ending import late, overdue
from autoslim.loop import Loop
from autoslim.outsiders import FACT, WHY
from autoslim.recipe import Recipe
from autoslim.shipping import has_file
from autoslim.study import NO_TRIAL, pack


def measure(loop: Loop, prepared: Any) -> None:
    """Make and measure the rivals that the record lacks, or whose files are lost. What was under way when the run is stopped is made by the
    next one."""
    told = dict(loop.study.fact(FACT) or {})
    none = {label: {WHY: why} for label, why in prepared.no_rivals.items()}
    if any(told.get(label) != record for label, record in none.items()):
        told |= none
        loop.study.set_fact(FACT, told)
    waiting = [(label, recipe) for label, recipe in prepared.rivals.items() if not settled(loop, told.get(label), recipe)]
    if waiting:
        loop.enter("rivals")
        make(loop, [Candidate(NO_TRIAL - place, {}, recipe, label) for place, (label, recipe) in enumerate(waiting)], told)
    loop.outsiders = outsiders.entries(told)


def settled(loop: Loop, record: Mapping[str, Any] | None, recipe: Recipe) -> bool:
    """Whether a rival need not be made: it failed for a reason of its own, or its file is there."""
    if record is None or record.get("key") != recipe.key:
        return False
    return all(has_file(loop.out, entry) for entry in outsiders.entries({"": record}))


def make(loop: Loop, waiting: list[Candidate], told: dict[str, Any]) -> None:
    """Evaluate the candidates and add their records to ``told`` and to the study's fact."""
    running = 0
    while waiting or running:
        if overdue(loop):
            loop.stop.requested, loop.stop.reason = True, loop.stop.reason or "time"
        if loop.stop.requested:
            return
        if waiting and late(loop):
            loop.watcher.message(f"no rival {', '.join(candidate.label for candidate in waiting)}: the time is used up")
            waiting = []
        while waiting and running < loop.executor.slots:
            loop.executor.submit(waiting.pop(0))
            running += 1
        loop.study.renew()
        for candidate, outcome in loop.executor.outcomes(1.0):
            running -= 1
            told[candidate.label] = pack(outcome, {"key": candidate.recipe.key, "recipe": candidate.recipe.as_dict()}, None)
            loop.study.set_fact(FACT, told)
            loop.watcher.message(words(candidate.label, outcome))


def words(label: str, outcome: Outcome) -> str:
    """What a run says of a rival."""
    if isinstance(outcome, Failed):
        return f"no rival {label}: {outcome.reason}: {outcome.detail}"
    found = outcome.measurement
    figures = f"{found.get('metric'):.4f} {found.get('latency_ms'):.3g} ms {found.get('size_bytes') / 1000:.0f} kB"
    return f"rival {label}, no point of this space: {figures}"
