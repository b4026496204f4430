"""Points as rows of positions, and the rungs that they climb: the values of the space's ``distill_steps``."""

from collections.abc import Iterable, Sequence

import numpy as np

from autoslim.candidate import Point
from autoslim.settings import STABLE, fork
from autoslim.space import RECOVERY, SearchSpace

STEPS = f"{RECOVERY}:distill_steps"
#: the position of each domain's choice
Row = tuple[int, ...]


class Ladder:
    """``counts`` (domains,): how many choices each domain has. ``rungs``: positions of the choices of ``distill_steps``, the shortest first; one
    rung where the space does not decide on them. ``bits``: places of the domains that are not trained."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.counts = np.array([len(domain.choices) for domain in space.domains])
        names = [domain.name for domain in space.domains]
        self.place = names.index(STEPS) if STEPS in names else None
        order = np.argsort(space.domains[self.place].choices, kind="stable") if self.place is not None else np.zeros(1, int)
        self.rungs = [int(position) for position in order]
        self.bits = [i for i, domain in enumerate(space.domains) if domain.technique == "bits"]
        others = [i for i, domain in enumerate(space.domains) if domain.technique == RECOVERY and i != self.place]
        self._fixed = {i: len(space.domains[i].choices) - 1 for i in others}
        self._own = [i for i, domain in enumerate(space.domains) if domain.technique != RECOVERY and i not in self.bits]

    def row(self, point: Point) -> Row:
        """The canonical row of a point."""
        return self.canonical(self.space.places(point))

    def point(self, row: Sequence[int]) -> Point:
        """The point of a row."""
        return {domain.name: domain.choices[choice] for domain, choice in zip(self.space.domains, row, strict=True)}

    def canonical(self, row: Iterable[int]) -> Row:
        """The row with settings of recovery that do nothing at their first rung, since what only changes bits is not trained."""
        row = list(row)
        for place, choice in self._fixed.items():
            row[place] = choice
        if self.place is not None and not self.changes(row):
            row[self.place] = self.rungs[0]
        return tuple(int(choice) for choice in row)

    def changes(self, row: Sequence[int]) -> bool:
        """Whether a row changes more than bits."""
        return any(self.space.domains[i].effects[row[i]] for i in self._own)

    def level(self, row: Sequence[int]) -> int:
        """The rung of a row, 0 the lowest."""
        return 0 if self.place is None else self.rungs.index(row[self.place])

    def at(self, row: Sequence[int], level: int) -> Row:
        """The row at another rung."""
        row = list(row)
        if self.place is not None:
            row[self.place] = self.rungs[level]
        return self.canonical(row)

    def steps(self, level: int) -> int:
        """Steps of distillation of a rung; 0 where the space does not decide on them."""
        return 0 if self.place is None else self.space.domains[self.place].choices[self.rungs[level]]

    def taken(self, level: int, below: int) -> int:
        """Steps of a training at a rung that goes on from the rung ``below``, if it can; -1 for none."""
        continued = self.space.fixed_recovery.get("schedule") == STABLE
        return self.steps(level) - (fork(self.steps(below)) if continued and below >= 0 else 0)

    def trained(self, row: Sequence[int]) -> Row:
        """What is trained for a row: all of it but the bits."""
        return tuple(choice for place, choice in enumerate(row) if place not in self.bits)

    def other_bits(self, row: Sequence[int]) -> Iterable[Row]:
        """The rows that differ from it in the bits of one domain."""
        for place in self.bits:
            for choice in range(self.counts[place]):
                if choice != row[place]:
                    yield (*row[:place], choice, *row[place + 1 :])

    def strength(self, row: Sequence[int]) -> float:
        """How far a row is from the untouched network, in whole domains; bits take no part, since they are not trained."""
        return sum(row[i] / max(1, self.counts[i] - 1) for i in self._own)
