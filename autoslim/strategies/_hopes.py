"""What results tell strategy halving: how far each structure is from the original, what a longer distillation will mend, what it takes, and
at which gap the allowed drop is used up."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoslim.candidate import Done, Rejected
from autoslim.strategies._additive import Additive
from autoslim.strategies._ladder import Ladder, Row

#: gaps within this share of the largest allowed one count as equal where a drop is allowed; the least that a gap can tell
SAFE, FLOOR = 0.7, 1e-4
#: standard deviation of the logarithm of a gap that is measured, and what is added to it per unit that training is still expected to change
DOUBT, OPEN = 0.1, 0.3
#: how fast a result loses weight in what it tells of the limit, per unit of the logarithm of the drop's share of the allowed one
FAR = 3.0
#: the logistic curve nearest to the normal distribution's has this slope
LOGISTIC = 1.7
#: gap ~ steps ** -LEARNING, as long as no result of the longer distillation tells better
LEARNING = 0.3
#: least share of the allowed drop from which a result tells where that is used up
TELLING = 0.2


@dataclass(frozen=True)
class Told:
    """What one outcome taught: ``row`` (domains,) of choices, the gap to the original, costs to be minimised; NaN where unknown. ``used``: its
    drop as a share of the allowed one; ``loads``: what is limited besides, as shares of the limits. ``seconds`` of all of it, ``trained`` those of
    them that grow with the steps."""

    row: Row
    gap: float
    costs: tuple[float, ...]
    used: float
    seconds: float
    trained: float
    loads: tuple[float, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether no limit on a cost is known to be broken."""
        return not any(load > 1 for load in self.loads)


@dataclass(frozen=True)
class Hope:
    """What is expected of a measured structure at the top rung: the logarithm of its gap, how sure that is, and its place among others."""

    told: Told
    gap: float
    doubt: float
    axes: np.ndarray


class Hopes:
    """``told``: what the outcomes taught, by trial number. ``costs``: (name, sign) as in Begun.costs; ``limits``: names of what is limited."""

    def __init__(self, ladder: Ladder, costs: Sequence[tuple[str, int]], limits: Sequence[str]) -> None:
        self._ladder, self._costs, self._limited = ladder, tuple(costs), "max_drop" in limits
        self._limits = [name for name in limits if name != "max_drop"]
        self.told: dict[int, Told] = {}

    def tell(self, number: int, row: Row, outcome: Done | Rejected) -> None:
        """Note what an outcome teaches."""
        found = outcome.measurement
        amounts = [(found.get(name), sign) for name, sign in self._costs]
        costs = tuple(float("nan") if value is None else value if sign > 0 else 1 / max(value, 1e-12) for value, sign in amounts)
        gap = float(found.facts.get("gap", "nan")) if isinstance(outcome, Done) else float("nan")
        used = 1 + outcome.violations.get("max_drop", float("nan"))
        loads = tuple(1 + outcome.violations.get(name, float("nan")) for name in self._limits)
        spent = {name: value for name, value in outcome.seconds.items() if name != "pool"}  # which later ones find
        self.told[number] = Told(
            row, max(gap, FLOOR) if gap == gap else gap, costs, used, float(sum(spent.values())), float(spent.get("recover", 0.0)), loads
        )

    def known(self) -> list[Told]:
        """Those whose gap and costs were all measured."""
        return [one for one in self.told.values() if np.isfinite([one.gap, *one.costs]).all()]

    def seeking(self) -> bool:
        """Whether there are limits and nothing measured keeps them all: then the chance of keeping them is all that counts (Gelbart, Snoek and Adams
        2014, https://arxiv.org/abs/1403.5607, section 3.3)."""
        return bool(self._limited or self._limits) and not any(one.holds and not one.used > 1 for one in self.known())

    def learnt(self) -> tuple[Additive, list[Additive]]:
        """Forecasts of the gap and of each cost."""
        told = list(self.told.values())
        rows = np.array([one.row for one in told], dtype=int).reshape(-1, len(self._ladder.counts))
        gap = Additive(self._ladder.counts, rows, np.array([one.gap if self._ladder.changes(one.row) else np.nan for one in told]))
        return gap, [Additive(self._ladder.counts, rows, np.array([one.costs[i] for one in told])) for i in range(len(self._costs))]

    def training(self) -> Additive:
        """A forecast of the seconds of a training: of several points that share one, the first took them."""
        trained = [one for one in self.told.values() if self._ladder.changes(one.row) and np.isfinite(one.gap)]
        spent = {self._ladder.trained(one.row): one for one in sorted(trained, key=lambda one: one.seconds)}
        rows = np.array([one.row for one in spent.values()], dtype=int).reshape(-1, len(self._ladder.counts))
        return Additive(self._ladder.counts, rows, np.array([one.seconds for one in spent.values()]))

    def hoped(self, gap: Additive) -> dict[Row, Hope]:
        """{row at the top rung: hope} of the structures measured so far, each from its highest rung."""
        found: dict[Row, Hope] = {}
        edge = self.edge()
        for one in sorted(self.known(), key=lambda one: self._ladder.level(one.row)):
            top = self._ladder.at(one.row, len(self._ladder.rungs) - 1)
            relief = self.relief(gap, self._ladder.level(one.row)) if top != one.row else 0.0
            hope = float(np.log(one.gap)) + relief
            found[top] = Hope(one, hope, DOUBT - OPEN * relief, self.axes(np.array([hope]), np.log([one.costs]), edge)[0])
        return found

    def relief(self, gap: Additive, level: int) -> float:
        """What going on from a rung to the last is expected to add to the logarithm of the gap, at most nothing: as results tell up to the
        highest rung that has any, and by LEARNING from there."""
        if self._ladder.place is None:
            return 0.0
        reached, rungs = max(level, self.reached()), self._ladder.rungs
        learnt = min(0.0, gap.effect(self._ladder.place, rungs[reached]) - gap.effect(self._ladder.place, rungs[level]))
        last, here = (max(1, self._ladder.steps(place)) for place in (len(rungs) - 1, reached))
        return learnt - LEARNING * float(np.log(last / here))

    def reached(self) -> int:
        """The highest rung that has a result."""
        return max((self._ladder.level(one.row) for one in self.told.values() if np.isfinite(one.gap)), default=0)

    def edge(self) -> float | None:
        """The logarithm of the gap at which the allowed drop is used up: of each result its gap over the share that it used up, results near
        the limit weighing most; None before any broke it."""
        ends = [one for one in self.told.values() if np.isfinite([one.gap, one.used]).all() and one.used > TELLING]
        if not self._limited or not any(one.used > 1 for one in ends):
            return None
        used = np.log([one.used for one in ends])
        return float(np.average(np.log([one.gap for one in ends]) - used, weights=np.exp(-FAR * np.abs(used))))

    @staticmethod
    def axes(gaps: np.ndarray, costs: np.ndarray, edge: float | None) -> np.ndarray:
        """(n, 1 + costs) logarithms; with an ``edge`` the gap counts beyond SAFE of it alone."""
        beyond = gaps if edge is None else np.maximum(0.0, gaps - edge - np.log(SAFE))
        return np.column_stack([beyond, costs])

    def worth(self, gaps: np.ndarray, doubts: np.ndarray | float) -> np.ndarray:
        """(n,) how likely a limit on the drop holds for logarithms of gaps with standard deviations ``doubts``; 1 where there is no limit."""
        edge = self.edge()
        return np.ones(len(gaps)) if edge is None else 1 / (1 + np.exp(np.clip(LOGISTIC * (gaps - edge) / doubts, -50, 50)))

    def holding(self, rows: np.ndarray) -> np.ndarray:
        """(n,) how likely the limits on costs hold for rows (n, domains), by an additive forecast of each share of a limit; 1 without such limits."""
        told = list(self.told.values())
        known = np.array([one.row for one in told], dtype=int).reshape(-1, len(self._ladder.counts))
        chance = np.ones(len(rows))
        for place in range(len(self._limits)):
            load = Additive(self._ladder.counts, known, np.array([one.loads[place] for one in told]))
            chance *= 1 / (1 + np.exp(np.clip(LOGISTIC * load(rows) / load.spread, -50, 50)))
        return chance

    @staticmethod
    def corner(points: np.ndarray) -> np.ndarray:
        """(axes,) just beyond the worst of (n, axes), for hypervolume."""
        return points.max(0) + 0.1

    def climb(self) -> float:
        """Seconds that a point takes through all rungs, as half of those told would; 0 before any is told."""
        ends = [one for one in self.told.values() if one.trained and self._ladder.level(one.row) == 0]
        if self._ladder.place is None or not ends:
            return 0.0
        levels = range(len(self._ladder.rungs))
        share = sum(self._ladder.taken(level, level - 1) for level in levels) / max(1, self._ladder.steps(0))
        return float(np.median([len(levels) * (one.seconds - one.trained) + one.trained * share for one in ends]))

    def seconds(self, one: Told, level: int) -> float:
        """What a told point would take at a higher rung, its training by the number of steps; a twin of it in bits was not trained again."""
        first, own = self.begun(one.row), self._ladder.level(one.row)
        lower = [place for place in map(self._ladder.level, self._rows_of(one.row)) if place < own]
        longer = self._ladder.taken(level, own) / max(1, self._ladder.taken(own, max(lower, default=-1)))
        return first.seconds + first.trained * (longer - 1)

    def _rows_of(self, row: Row) -> list[Row]:
        """What was told of a row's structure, at any rung and with any bits."""
        own = self._ladder.trained(self._ladder.at(row, 0))
        return [one.row for one in self.told.values() if self._ladder.trained(self._ladder.at(one.row, 0)) == own]

    def begun(self, row: Sequence[int]) -> Told:
        """Of the told points that share a told row's training the one that took most time: the one that was trained."""
        own = self._ladder.trained(row)
        return max((other for other in self.told.values() if self._ladder.trained(other.row) == own), key=lambda other: other.seconds)
