"""Covariance matrix adaptation (Hansen 2016, https://arxiv.org/abs/1604.00772) over the solver's few coefficients, never over layers.

A vector of coefficients re-weights the table of losses block by block and says how much a unit of loss is worth; the solver makes a point
of it (the search space of SPDY, Frantar and Alistarh 2022, https://arxiv.org/abs/2201.13096, section 4). Needs the package cmaes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from cmaes import CMA

from autoslim import pareto, solver
from autoslim.candidate import Outcome, Point
from autoslim.forecast import Forecast, Tables, guessed
from autoslim.space import RECOVERY, SearchSpace
from autoslim.strategies._archive import Archive
from autoslim.strategies._begun import Begun
from autoslim.strategies._sampled import derived

BLOCKS = 8
#: middle and half width, in logarithms, of how much of log cost a unit of loss is worth
TRADE, SPREAD = math.log(30.0), 3.0
SIGMA = 1.0


@dataclass(eq=False, repr=False)
class Member(Begun):
    """``tables`` as for frontier; without them it begins with guesses. ``population``: points per generation."""

    tables: Mapping[str, Any] | None = None
    population: int = 8
    wants_tables = True

    def __post_init__(self) -> None:
        self._archive = Archive(self.space, self.objectives)
        self._tables = Tables.from_dict(self.tables) if self.tables else guessed(self.space)
        self._blocks = blocks_of(self.space)
        self._costs = [name for name, _ in self.costs()]
        self._size = 1 + len(self._costs) + max(self._blocks.values(), default=0) + 1
        self._generations: list[list[tuple[np.ndarray, float]]] = [[]]
        self._asked: dict[int, tuple[int, ...]] = {}

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """A draw of the current generation's distribution, solved; the memo carries the coefficients and the generation."""
        whole = self._generations[:-1]
        found = CMA(np.zeros(self._size), SIGMA, seed=derived(self.seed, number), population_size=self.population)
        for generation in whole:
            found.tell(generation)
        drawn = [round(float(x), 6) for x in found.ask()]
        row = self._fresh(self.solve(np.array(drawn)), self.random(number))
        self._asked[number] = tuple(row)
        return self._archive.point(row), {"coefficients": drawn, "generation": len(whole)}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Note the outcome; a generation ends when as many of its draws are told as it has members."""
        self._asked.pop(number, None)
        before = [seen.values for seen in self._archive.front()]
        seen = self._archive.tell(number, point, outcome)
        if "coefficients" not in memo:
            return
        merit = self._merit(before, seen.values) if seen.values is not None and seen.feasible else -1.0
        if memo.get("generation") == len(self._generations) - 1:
            self._generations[-1].append((np.array(memo["coefficients"], dtype=float), -merit))
            if len(self._generations[-1]) == self.population:
                self._generations.append([])

    def _fresh(self, row: np.ndarray, generator: np.random.Generator) -> list[int]:
        """The row, or where it was asked before, an unasked one a few random changes away from it."""
        tried, found = {seen.row for seen in self._archive.told.values()} | set(self._asked.values()), [int(choice) for choice in row]
        for _ in range(64):
            if tuple(found) not in tried or not len(self._archive.free):
                break
            place = int(generator.choice(self._archive.free))
            found[place] = int(generator.integers(self._archive.counts[place]))
        return found

    def _merit(self, before: Sequence[tuple[float, ...]], values: tuple[float, ...]) -> float:
        """Hypervolume that a point adds to the front before it, on axes scaled by what was seen."""
        rows = np.array([*before, values], dtype=float)
        low, high = rows.min(0), rows.max(0)
        rows = (rows - low) / np.where(high > low, high - low, 1.0)
        corner = np.full(rows.shape[1], 1.1)
        return pareto.hypervolume(rows, corner) - (pareto.hypervolume(rows[:-1], corner) if len(before) else 0.0)

    def solve(self, coefficients: np.ndarray) -> np.ndarray:
        """(domains,) choices of least weighted log cost plus re-weighted loss, by descent from the strongest choices."""
        trade = math.exp(TRADE + SPREAD * float(np.tanh(coefficients[0])))
        weights = np.exp(coefficients[1 : 1 + len(self._costs)])
        scale = np.exp(coefficients[1 + len(self._costs) :])
        loss = {name: row * scale[self._blocks[name]] for name, row in self._tables.loss.items() if name in self._blocks}
        forecast = Forecast(self._archive.space, replace(self._tables, loss={**self._tables.loss, **loss}))

        def score(rows: np.ndarray) -> np.ndarray:
            made = forecast.composed(rows)
            costs = [np.log(np.maximum(forecast.cost_of(name, made), 1e-12)) for name in self._costs]
            return (weights / max(weights.sum(), 1e-12)) @ np.array(costs).reshape(len(costs), -1) + trade * forecast.gap_of(made)

        return solver.descend(score, self._archive.counts - 1, self._archive.counts.tolist())


def blocks_of(space: SearchSpace) -> dict[str, int]:
    """{domain: which of at most BLOCKS coefficients it shares}: the domains of each technique in the network's order, cut evenly."""
    found: dict[str, int] = {}
    for technique in dict.fromkeys(domain.technique for domain in space.domains if domain.technique != RECOVERY):
        names = [domain.name for domain in space.domains if domain.technique == technique]
        found |= {name: index * min(BLOCKS, len(names)) // len(names) for index, name in enumerate(names)}
    return found
