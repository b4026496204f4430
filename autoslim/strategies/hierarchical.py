"""Coarse to fine: whole stages first, what was measured of them refined block by block, then layer by layer.

The idea is that of nested iteration (Hackbusch 1985, doi 10.1007/978-3-662-02427-0): few coarse decisions find the region, results choose
it, and fine decisions move within it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim.candidate import Outcome, Point
from autoslim.errors import UserError
from autoslim.space import SearchSpace, parent, stage
from autoslim.strategies._archive import Archive
from autoslim.strategies._begun import Begun

#: coarse to fine, and which decisions of one technique move together at a level
LEVELS: tuple[tuple[str, Callable[[str], str]], ...] = (("stage", stage), ("block", parent), ("layer", str))
TRIES = 64


@dataclass(eq=False, repr=False)
class Member(Begun):
    """At the coarsest level the decisions of a stage take any position together; at finer ones those of a block, then single ones, move by
    one position from a point of the measured front, and often others move back in exchange. A level has ``each`` trials, fewer where it has
    nothing new to try; the finest has the rest."""

    each: int = 8

    def __post_init__(self) -> None:
        if not isinstance(self.each, int) or isinstance(self.each, bool) or self.each < 1:
            raise UserError(f"hierarchical: each is {self.each!r}, allowed: an integer from 1, the trials of a level")
        self._archive = Archive(self.space, self.objectives)
        self._levels = levels(self.space, self._archive.free)
        self._asked: dict[int, str] = {}
        self._pending: dict[int, tuple[int, ...]] = {}

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """A move at the level that is due; the memo names the level."""
        generator = self.random(number)
        known = {seen.row for seen in self._archive.told.values()} | set(self._pending.values())
        bases = [seen.row for seen in self._archive.front()] or [self._archive.start]
        spent = list(self._asked.values())
        due = [name for name, _ in self._levels[:-1] if spent.count(name) < self.each] + [name for name, _ in self._levels[-1:]]
        row, level = None, ""
        for level in due:
            row = self._move(level, bases, known, generator)
            if row is not None:
                break
        if row is None:  # every neighbour of the front is known
            row = tuple(int(choice) for choice in generator.integers(0, self._archive.counts))
        self._asked[number], self._pending[number] = level, row
        return self._archive.point(row), {"level": level}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Note an outcome, and which level it was asked at."""
        self._pending.pop(number, None)
        if "level" in memo:
            self._asked[number] = memo["level"]
        self._archive.tell(number, point, outcome)

    def _move(
        self, level: str, bases: Sequence[tuple[int, ...]], known: set[tuple[int, ...]], generator: np.random.Generator
    ) -> tuple[int, ...] | None:
        """A point that nobody asked for yet; None where none was found."""
        groups, coarsest = dict(self._levels)[level], level == self._levels[0][0]
        for _ in range(TRIES if groups else 0):
            row = list(bases[generator.integers(len(bases))])
            first, second = generator.integers(len(groups), size=2)
            way = int(generator.choice((-1, 1)))
            for group, step in ((first, way), (second, -way)) if first != second and generator.random() < 0.5 else ((first, way),):
                drawn = int(generator.integers(max(self._archive.counts[groups[group]])))
                for place in groups[group]:
                    row[place] = min(max(drawn if coarsest else row[place] + step, 0), int(self._archive.counts[place]) - 1)
            if tuple(row) not in known:
                return tuple(row)
        return None


def levels(space: SearchSpace, free: Sequence[int]) -> list[tuple[str, list[list[int]]]]:
    """(name, groups of places of decisions that move together) per level, coarse to fine; levels that group alike are one, the finer."""
    found: list[tuple[str, list[list[int]]]] = []
    for name, key in LEVELS:
        groups: dict[tuple[str, str], list[int]] = {}
        for place in free:
            technique, _, label = space.domains[place].name.partition(":")
            groups.setdefault((technique, key(label)), []).append(int(place))
        if found and sorted(found[-1][1]) == sorted(groups.values()):
            found.pop()
        found.append((name, list(groups.values())))
    return found
