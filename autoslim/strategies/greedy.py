"""The usual practice: from the untouched network, one layer one step stronger at a time, always the step that saves most per loss
(in the manner of NetAdapt, Yang et al. 2018, https://arxiv.org/abs/1804.03230)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim.candidate import Outcome, Point
from autoslim.strategies._archive import Archive, Seen
from autoslim.strategies._begun import Begun
from autoslim.strategies._sampled import derived

#: a loss of the metric below which a step counts as free
FREE = 1e-4


@dataclass(eq=False, repr=False)
class Member(Begun):
    """Tries every single step from where it stands, then takes the best of them. Where nothing can be judged, it takes a random one."""

    def __post_init__(self) -> None:
        self._archive = Archive(self.space, self.objectives)
        self._metric = next((i for i, (name, _) in enumerate(self.objectives) if name == "metric"), 0)
        self._asked: dict[int, tuple[int, ...]] = {}

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """The next untried step from where the told outcomes lead; random points once the strongest corner is reached."""
        known = {seen.row: seen for _, seen in sorted(self._archive.told.items())}
        under_way = set(self._asked.values())
        row = self._archive.start
        while True:
            steps = self._steps(row, number)
            fresh = [step for step in steps if step not in known and step not in under_way]
            if fresh:
                break
            waiting = any(step in under_way for step in steps)
            if not steps or waiting:
                fresh = [tuple(int(x) for x in self.random(number).integers(0, self._archive.counts))]
                break
            row = self._best(steps, known, row)
        self._asked[number] = fresh[0]
        return self._archive.point(fresh[0]), {}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Note the outcome of a step."""
        self._asked.pop(number, None)
        self._archive.tell(number, point, outcome)

    def _steps(self, row: tuple[int, ...], number: int) -> list[tuple[int, ...]]:
        """Every domain one position stronger; in an order that the seed gives."""
        order = self.random(0).permutation(self._archive.free)
        return [(*row[:i], row[i] + 1, *row[i + 1 :]) for i in order if row[i] + 1 < self._archive.counts[i]]

    def _best(self, steps: Sequence[tuple[int, ...]], known: Mapping[tuple[int, ...], Seen], row: tuple[int, ...]) -> tuple[int, ...]:
        """The step that saves most, in logarithms of the costs, per loss of the metric against the best that was seen."""
        judged = [(step, np.array(known[step].values)) for step in steps if known[step].values is not None]
        if not judged:
            return steps[derived(self.seed, sum(row)) % len(steps)]
        everything = np.array([seen.values for seen in known.values() if seen.values is not None])
        top = everything[:, self._metric].min()
        costs = np.delete(np.arange(everything.shape[1]), self._metric)

        def worth(values: np.ndarray) -> float:
            saved = -np.log(np.maximum(np.abs(values[costs]), 1e-12)) * np.sign(values[costs] + 1e-300)
            highest = -np.log(np.maximum(np.abs(everything[:, costs]).max(0), 1e-12))
            return float((saved - highest).sum() / max(values[self._metric] - top, FREE))

        return max(judged, key=lambda pair: worth(pair[1]))[0]
