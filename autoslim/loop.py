"""The state of one run of the search loop, what it tells whoever looks on, and the one way an end is written down."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoslim.budget import feasible
from autoslim.candidate import Candidate, Outcome, Rejected
from autoslim.entries import Entries, is_interrupted
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
    entries: Entries = field(default_factory=Entries)
    judged: dict[str, int] = field(default_factory=dict)
    running: dict[int, Candidate] = field(default_factory=dict)
    followers: dict[str, list[int]] = field(default_factory=dict)
    #: seconds of this process besides waiting: asking, recording, teaching, weighing what to keep, hypervolume
    asking: float = 0.0
    #: seconds of each phase that is over; the present one and when it began
    phases: dict[str, float] = field(default_factory=dict)
    phase: tuple[str, float] | None = None
    #: evaluations of earlier runs
    earlier: int = 0
    #: measured rivals that are no points of the space, and no trials
    outsiders: list[Entry] = field(default_factory=list)
    #: ends since files were pruned
    unpruned: int = 0
    #: hypervolume of the feasible after each evaluation, of earlier runs too; and the best of them by the sum of its coordinates
    growth: Growth | None = None
    best: tuple[float, Entry] | None = None

    def spent_in(self, name: str) -> float:
        """Seconds of a phase up to now."""
        now = self.phase is not None and self.phase[0] == name
        return self.phases.get(name, 0.0) + (time.monotonic() - self.phase[1] if now else 0.0)

    def enter(self, name: str) -> None:
        """Begin a phase: the one before ends, and whoever looks on is told."""
        now = time.monotonic()
        if self.phase is not None and self.phase[0] == name:
            return
        if self.phase is not None:
            before, begun = self.phase
            self.phases[before] = self.phases.get(before, 0.0) + now - begun
        self.phase = name, now
        self.watcher.phase(name)


def is_judged(outcome: Outcome | None) -> bool:
    """Whether an end settles its recipe: not if the run ended first, nor if it was rejected for a limit that is wider now."""
    return outcome is not None and not is_interrupted(outcome) and not (isinstance(outcome, Rejected) and feasible(outcome.violations))


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
    loop.entries.put(Entry(number, point or prepared.space.identity(), label, memo or {}, recipe.key, outcome, cached_from))
    if cached_from is None and not is_interrupted(outcome):
        loop.judged.setdefault(recipe.key, number)
