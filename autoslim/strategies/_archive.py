"""What strategies of our own share: outcomes as rows of choices and vectors to be minimised, and the front of what is feasible."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim import pareto
from autoslim.budget import feasible
from autoslim.candidate import Done, Outcome, Point
from autoslim.metrics import Direction, loss_sign
from autoslim.space import RECOVERY, SearchSpace

WORST = 1e9


@dataclass(frozen=True)
class Seen:
    """An outcome: ``row`` (domains,) positions of the choices, ``values`` (objectives,) to be minimised, None without all of them."""

    row: tuple[int, ...]
    values: tuple[float, ...] | None
    feasible: bool


class Archive:
    """Outcomes by trial number. ``counts`` (domains,) are the choices that a strategy may take: recovery settings stay at the one that the
    untouched point has, the most thorough."""

    def __init__(self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]]) -> None:
        self.space, self._objectives = space, tuple(objectives)
        self.counts = np.array([1 if domain.technique == RECOVERY else len(domain.choices) for domain in space.domains])
        self.free = np.flatnonzero(self.counts > 1)
        self.start = self.row(space.identity())
        self.told: dict[int, Seen] = {}

    def tell(self, number: int, point: Point, outcome: Outcome) -> Seen:
        """Note an outcome; returns it as it is kept."""
        values = None
        if isinstance(outcome, Done):
            found = [(outcome.measurement.get(name), loss_sign(direction)) for name, direction in self._objectives]
            if all(value is not None and np.isfinite(value) for value, _ in found):
                values = tuple(sign * float(value) for value, sign in found)
        self.told[number] = Seen(self.row(point), values, isinstance(outcome, Done) and feasible(outcome.violations))
        return self.told[number]

    def front(self) -> list[Seen]:
        """The non-dominated ones, of the feasible if there are any; in the order of their numbers."""
        known = [seen for _, seen in sorted(self.told.items()) if seen.values is not None]
        known = [seen for seen in known if seen.feasible] or known
        if not known:
            return []
        mask = pareto.front(np.array([seen.values for seen in known]))
        return [seen for seen, keep in zip(known, mask, strict=True) if keep]

    def row(self, point: Point) -> tuple[int, ...]:
        return self.space.places(point)

    def point(self, row: Sequence[int]) -> dict[str, Any]:
        """The point of a row of positions; recovery as the untouched point has it."""
        identity: Mapping[str, Any] = self.space.identity()
        return {
            domain.name: identity[domain.name] if domain.technique == RECOVERY else domain.choices[int(choice)]
            for domain, choice in zip(self.space.domains, row, strict=True)
        }
