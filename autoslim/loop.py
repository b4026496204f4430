"""The state of one run of the search loop, what it tells whoever looks on, and the one way an end is written down."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoslim.budget import feasible
from autoslim.candidate import Candidate, Failed, Outcome, Rejected
from autoslim.growth import Growth
from autoslim.recipe import Recipe
from autoslim.spec import StudySpec
from autoslim.study import Entry, Study


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
    #: hypervolume of the feasible after each evaluation, of earlier runs too; and the best of them by the sum of its coordinates
    growth: Growth | None = None
    best: tuple[float, Entry] | None = None


def is_judged(outcome: Outcome | None) -> bool:
    """Whether an end settles its recipe: not if the run ended first, nor if it was rejected for a limit that is wider now."""
    return outcome is not None and not is_interrupted(outcome) and not (isinstance(outcome, Rejected) and feasible(outcome.violations))


def is_interrupted(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.reason == "interrupted"


def remember(loop: Loop, entry: Entry) -> None:
    place = next((index for index in reversed(range(len(loop.entries))) if loop.entries[index].number == entry.number), None)
    if place is not None:  # among the latest, so that it is found at once
        del loop.entries[place]
    loop.entries.append(entry)


def entry_of(loop: Loop, number: int) -> Entry:
    """The loop's memory of a trial, the latest ones first."""
    return next(entry for entry in reversed(loop.entries) if entry.number == number)


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
