"""Evolution under successive halving: many points with little distillation, few with much; for students, whose training is what costs.

The rungs are the values of the space's ``distill_steps``. A share 1 / eta of a rung's points goes on to the next as soon as there are enough
(Li et al. 2020, ASHA, https://arxiv.org/abs/1810.05934), those with most hypervolume that nothing else has, since there are several
objectives (Guerreiro et al. 2021, https://arxiv.org/abs/2005.00515, section 4). New points are children of the front, by uniform crossover and
mutation (Real et al. 2019, https://arxiv.org/abs/1802.01548, for mutation alone), at most as costly as their parents by a forecast that is
learnt from the results. Points that differ in bits alone share one training, so that the others are asked once one of them was trained.
With ``schedule: stable`` a point that goes on takes only the steps that it did not take on its last rung, see continuing.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim import pareto
from autoslim.candidate import Failed, Outcome, Point
from autoslim.strategies._additive import Additive
from autoslim.strategies._begun import Begun
from autoslim.strategies._designs import designed
from autoslim.strategies._hopes import DOUBT, OPEN, Hopes, Told
from autoslim.strategies._ladder import Ladder, Row

#: children that are weighed for one that is asked; room in their costs above their parents'
CHILDREN, ROOM = 64, 1.05
#: other bits are asked where the measured gap is at most so much, as a logarithm, above the largest allowed one
NEAR = 0.3
#: what a point that breaks the limit on a cost is worth, as a share: it may be all there is
BROKEN = 1e-3


@dataclass(eq=False, repr=False)
class Member(Begun):
    """``population``: points of the lowest rung before any goes on; ``eta``: one of so many does. ``spare``: seconds left for further points, kept by the loop."""

    population: int = 8
    eta: int = 3
    begins_alone = True

    def __post_init__(self) -> None:
        self._ladder = Ladder(self.space)
        self._hopes = Hopes(self._ladder, self.costs(), self.constraints)
        self._tried: set[Row] = set()
        self._pending: dict[int, Row] = {}
        self.spare = float("inf")

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """A point that is due for its next rung, a twin in bits of a trained one, a new one, or, where the time would not suffice for its
        way up, one that goes on though it is not due."""
        row = self._due() or self._twin() or self._first() or self._late() or self._child(self.random(number))
        self._pending[number] = row
        return self._ladder.point(row), {"whole": True, "rung": self._ladder.level(row)}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Learn an outcome; what failed is not asked again."""
        self._pending.pop(number, None)
        row = self._ladder.row(point)
        self._tried.add(row)
        if not isinstance(outcome, Failed):
            self._hopes.tell(number, row, outcome)

    def _is_new(self, row: Row) -> bool:
        return row not in self._tried and row not in self._pending.values()

    def _due(self) -> Row | None:
        """The point that goes on to its next rung: from the highest rung that has ``eta`` times as many points as the next; None where none has,
        or the time that is left does not suffice."""
        told = {one.row: one for one in self._hopes.known()}
        levels = [
            {self._ladder.trained(row) for row in told if self._ladder.level(row) == level} for level in range(len(self._ladder.rungs))
        ]
        under_way = [
            {self._ladder.trained(row) for row in self._pending.values() if self._ladder.level(row) == level}
            for level in range(len(self._ladder.rungs))
        ]
        for level in reversed(range(len(self._ladder.rungs) - 1)):
            enough = len(levels[level]) >= (self.population if level == 0 else self.eta)
            if not enough or len(levels[level + 1] | under_way[level + 1]) >= len(levels[level]) // self.eta:
                continue
            open_rows = [
                row
                for row, one in told.items()
                if self._ladder.level(row) == level
                and self._ladder.trained(row) != self._ladder.trained(self._ladder.at(row, level + 1))
                and self._ladder.trained(self._ladder.at(row, level + 1)) not in levels[level + 1] | under_way[level + 1]
                and self._is_new(self._ladder.at(row, level + 1))
                and self._hopes.seconds(one, level + 1) <= self.spare
            ]
            if open_rows:
                return self._ladder.at(self._most(open_rows), level + 1)
        return None

    def _late(self) -> Row | None:
        """Where a new point could no longer climb all rungs: of what was measured the best, at the highest rung that ends in time; None where
        there is time, or nothing to go on with."""
        if self._hopes.climb() <= self.spare:
            return None
        known: dict[Row, int] = {}
        for row in self._told_rows():
            own = self._ladder.trained(self._ladder.at(row, 0))
            known[own] = max(known.get(own, 0), self._ladder.level(row))
        goals = {}
        for one in self._hopes.known():
            most = known[self._ladder.trained(self._ladder.at(one.row, 0))]
            within = [level for level in range(most + 1, len(self._ladder.rungs)) if self._hopes.seconds(one, level) <= self.spare]
            if within and self._ladder.changes(one.row):
                goals[one.row] = self._ladder.at(one.row, within[-1])
        goals = {row: goal for row, goal in goals.items() if self._is_new(goal)}
        return goals[self._most(list(goals), for_seconds=False)] if goals else None

    def _most(self, rows: Sequence[Row], for_seconds: bool = True) -> Row:
        """Of measured rows the one with most hypervolume of its own, or most for the seconds of its training; where none has any, and before any
        keeps the limits, the one most likely to keep them."""
        hoped = self._hopes.hoped(self._hopes.learnt()[0])
        tops = list(hoped)
        points = np.array([hope.axes for hope in hoped.values()])
        corner = self._hopes.corner(points)
        whole = pareto.hypervolume(points, corner)
        ranked, seeking = [], self._hopes.seeking()
        for row in rows:
            place = tops.index(self._ladder.at(row, len(self._ladder.rungs) - 1))
            own = whole - pareto.hypervolume(np.delete(points, place, 0), corner)
            hope = hoped[tops[place]]
            worth = self._hopes.worth(np.array([hope.gap]), hope.doubt)[0] * (1.0 if hope.told.holds else BROKEN)
            spent = max(self._hopes.begun(row).seconds, 1e-3) if for_seconds else 1.0
            ranked.append((worth if seeking else own * worth / spent, worth / spent, -float(points[place].sum()), row))
        return max(ranked)[3]

    def _twin(self) -> Row | None:
        """A point that differs in bits alone from a trained one of the front, where it is expected to add hypervolume."""
        if not self._ladder.bits or self._ladder.place is None:
            return None
        gap, costs = self._hopes.learnt()
        hoped = self._hopes.hoped(gap)
        points = np.array([hope.axes for hope in hoped.values()])
        if not len(points):
            return None
        edge = self._hopes.edge()
        near = float("inf") if edge is None else np.exp(edge + NEAR)
        ends = [hope.told for hope, keep in zip(hoped.values(), pareto.front(points), strict=True) if keep]
        front = [one for one in ends if self._ladder.level(one.row) > 0 and one.gap <= near]
        pool = {twin for one in front for twin in self._ladder.other_bits(one.row)}
        if self._hopes.seeking():  # bits that lose more are of no use then
            pool = {twin for one in front for twin in self._ladder.other_bits(one.row) if gap.less(twin, one.row)}
        return self._best(sorted(row for row in pool if self._is_new(row)), gap, costs, None)

    def _first(self) -> Row | None:
        """The next of the points that the search begins with, from which the effect of every choice can be told; the strongest first, since
        small networks learn fast."""
        begun = {self._ladder.at(row, 0) for row in self._told_rows() if self._ladder.changes(row)}
        if len(begun) >= self.population:
            return None
        trained = [place for place in range(len(self._ladder.counts)) if place not in (*self._ladder.bits, self._ladder.place)]
        drawn = designed(self._ladder.counts, self.population, self.random(0), trained)
        rows = sorted((self._ladder.at(row, 0) for row in drawn.tolist()), key=self._ladder.strength, reverse=True)
        return next((row for row in rows if self._is_new(row)), None)

    def _told_rows(self) -> list[Row]:
        """What was told and what is under way."""
        return [*(one.row for one in self._hopes.told.values()), *self._pending.values()]

    def _trained_rows(self) -> list[Row]:
        """What was trained, or is under way; what a limit on costs rejected before was not."""
        return [*(one.row for one in self._hopes.told.values() if np.isfinite(one.gap)), *self._pending.values()]

    def _child(self, generator: np.random.Generator) -> Row:
        """The most promising child of the front, at the lowest rung; where none is new, of random points the one that the limits on costs most
        likely allow."""
        gap, costs = self._hopes.learnt()
        hoped = self._hopes.hoped(gap)
        if hoped:
            mask = pareto.front(np.array([hope.axes for hope in hoped.values()]))
            parents = [hope.told for hope, keep in zip(hoped.values(), mask, strict=True) if keep]
            parents = [one for one in parents if one.holds] or parents
            begun = {self._ladder.trained(self._ladder.at(row, 0)) for row in self._trained_rows()}  # other bits of these are twins
            rows = {self._bred(parents, costs, generator) for _ in range(CHILDREN)} - {None}
            chosen = self._best(
                sorted(row for row in rows if self._ladder.trained(row) not in begun and self._is_new(row)), gap, costs, generator
            )
            if chosen is not None:
                return chosen
        drawn = [self._ladder.at([int(generator.integers(count)) for count in self._ladder.counts], 0) for _ in range(CHILDREN)]
        new = [row for row in drawn if self._is_new(row)] or drawn[-1:]
        return new[int(np.argmax(self._hopes.holding(np.array(new))))]

    def _bred(self, parents: Sequence[Told], costs: Sequence[Additive], generator: np.random.Generator) -> Row | None:
        """A child of two parents, each choice from either, one or two of them changed; None if it would cost more than both."""
        both = [parents[int(place)] for place in generator.integers(len(parents), size=2)]
        row = np.where(generator.random(len(self._ladder.counts)) < 0.5, both[0].row, both[1].row)
        for _ in range(int(generator.integers(1, 3))):
            place = int(generator.integers(len(row)))
            row[place] = generator.integers(self._ladder.counts[place])
        child = self._ladder.at(row.tolist(), 0)
        if self._hopes.seeking():  # what costs more may be what the limits need
            return child
        most = [max(pair) for pair in zip(both[0].costs, both[1].costs, strict=True)]
        told = [float(cost(np.array([child]))[0]) for cost in costs]
        return child if all(value <= np.log(most_ * ROOM) for value, most_ in zip(told, most, strict=True)) else None

    def _best(self, rows: Sequence[Row], gap: Additive, costs: Sequence[Additive], generator: np.random.Generator | None) -> Row | None:
        """Of new rows the one that adds most expected hypervolume to what is hoped for; doubt counts as chance where there is a
        ``generator``. None where none adds any."""
        if not rows:
            return None
        level = self._hopes.reached()
        tops = np.array([self._ladder.at(row, level) for row in rows])
        noise = gap.spread * generator.standard_normal(len(rows)) if generator is not None else 0.0
        told = np.column_stack([cost(tops) for cost in costs])
        hopes = gap(tops) + self._hopes.relief(gap, level) + noise
        axes = self._hopes.axes(hopes, told, self._hopes.edge())
        known = np.array([hope.axes for hope in self._hopes.hoped(gap).values()])
        corner = self._hopes.corner(np.vstack([known, axes]))
        whole = pareto.hypervolume(known, corner)
        gains = [pareto.hypervolume(np.vstack([known, one]), corner) - whole for one in axes]
        holding = self._hopes.holding(tops)
        chances = self._hopes.worth(hopes, DOUBT + gap.spread - OPEN * self._hopes.relief(gap, 0)) * holding
        if self._hopes.seeking():
            return rows[int(np.argmax(np.where(holding > 0.5, 1.0 + chances, chances)))]
        gains = np.array(gains) * chances
        if generator is not None:  # new ones are trained
            gains = gains / np.exp(self._hopes.training()(np.array(rows)))
        return rows[int(np.argmax(gains))] if max(gains) > 1e-9 * max(whole, 1.0) else None
