"""Points of best predicted trade-off: what the solver makes of a forecast of single choices."""

import itertools
from collections.abc import Sequence

import numpy as np

from autoslim import solver
from autoslim.forecast import Forecast, Tables
from autoslim.formats import is_integer
from autoslim.space import Domain, SearchSpace

#: trade-offs that the solver is asked for: how much of log cost a unit of gap is worth
TRADES = np.geomspace(0.3, 3000.0, 12)
BUCKETS, SOLVED, BOOTSTRAPS = 1000, 12, 2
#: shares of all savings that are asked of every cost at once, and choices above which that takes too long
JOINT, MOST_JOINT = (0.1, 0.3, 0.6), 400
#: the loss of a choice that nothing is known of, where a number is needed
LOST = 1e3


class Solutions:
    """``costs``: (name, sign) of what is minimised beside the loss; ``counts`` (domains,): the choices that may be taken, the first ones of each
    domain; ``seed``: of the tables that other samples might have given."""

    def __init__(self, space: SearchSpace, costs: Sequence[tuple[str, int]], counts: Sequence[int], tables: Tables, seed: int) -> None:
        self._space, self._costs, self._counts, self._tables, self._seed = space, costs, counts, tables, seed
        identity = space.identity()
        self._identity = np.array([domain.choices.index(identity[domain.name]) for domain in space.domains])

    def front_rows(self, forecast: Forecast) -> np.ndarray:
        """Points of best predicted trade-off: for each cost alone and all together, from nearly lossless to strongest."""
        weights = [np.eye(len(self._costs))[i] + 0.05 for i in range(len(self._costs))] if len(self._costs) > 1 else []
        weights.append(np.ones(len(self._costs)) / len(self._costs))
        found = []
        for weight in weights:
            row = np.array(self._counts) - 1
            for trade in TRADES:

                def score(rows: np.ndarray, trade: float = trade, weight: np.ndarray = weight) -> np.ndarray:
                    made = forecast.composed(rows)
                    costs = [np.log(np.maximum(forecast.cost_of(name, made), 1e-12)) for name, _ in self._costs]
                    return weight @ np.array(costs) + trade * forecast.gap_of(made)

                row = solver.descend(score, row, self._counts)
                found.append(row)
        return np.unique(forecast.canonical(np.vstack([found, self.separable_rows(forecast)])), axis=0)

    def separable_rows(self, forecast: Forecast) -> np.ndarray:
        """Exact solutions as if savings added up: for each cost alone, conversions between integer and float counted with latency, and for
        all costs at once; what descent might not find from where it starts."""
        told, costs = self.single(forecast)
        kinds = [kinds_of(domain) for domain in self._space.domains]
        found = []
        for losses, ((name, _), table) in itertools.product(self.drawn(told), zip(self._costs, costs, strict=True)):
            savings = [values - values.min() for values in table]
            whole = sum(float(values.max()) for values in savings) or 1.0
            turn = forecast.turn_ms if name == "latency_ms" else 0.0
            picks = solver.chain(losses, savings, kinds, turn, whole, BUCKETS) if turn else solver.knapsack(losses, savings, whole, BUCKETS)
            found.append(picks[np.linspace(0, BUCKETS, SOLVED + 1).astype(int)[:-1]])
        rows = np.vstack([*found, joint_rows(told, costs)])
        return rows[(rows >= 0).all(1)]

    def drawn(self, losses: list[np.ndarray]) -> list[list[np.ndarray]]:
        """The losses as measured, and as other held-out samples might have had them (bootstrap tables), whose fronts are pooled."""
        doubts = [self._tables.spread.get(domain.name) for domain in self._space.domains]
        if not any(doubt is not None and doubt.any() for doubt in doubts):
            return [losses]
        generator, found = np.random.default_rng(self._seed), [losses]
        for _ in range(BOOTSTRAPS):
            draws = [generator.standard_normal(len(loss)) for loss in losses]
            parts = zip(losses, doubts, draws, strict=True)
            found.append([loss if doubt is None else loss * np.exp(doubt * draw) for loss, doubt, draw in parts])
        return found

    def single(self, forecast: Forecast) -> tuple[list[np.ndarray], list[list[np.ndarray]]]:
        """(losses, costs by objective) of every choice of every domain, all others untouched."""
        identity = self._identity
        rows, places = solver.neighbours(identity, self._counts)
        rows, places = np.vstack([rows, np.repeat(identity[None], len(identity), axis=0)]), np.r_[places, np.arange(len(identity))]
        choices = rows[np.arange(len(rows)), places]
        choices = np.where(choices < np.array(self._counts)[places], choices, 0)
        made = forecast.composed(rows)

        def table(values: np.ndarray, missing: float) -> list[np.ndarray]:
            found = [np.full(count, missing) for count in self._counts]
            for place, choice, value in zip(places, choices, values, strict=True):
                found[place][choice] = value
            return found

        return table(made.losses.sum(1), np.inf), [table(forecast.cost_of(name, made), 0.0) for name, _ in self._costs]


def kinds_of(domain: Domain) -> np.ndarray:
    """Per choice of a domain whether it makes integer kernels (1) or leaves float ones (0); other techniques pass the kind on."""
    if domain.technique != "bits":
        return np.full(len(domain.choices), solver.PASSING)
    return np.array([int(any(is_integer(value) for _, value in effects)) for effects in domain.effects])


def joint_rows(losses: list[np.ndarray], costs: list[list[np.ndarray]]) -> np.ndarray:
    """Exact solutions that keep the same share of every cost's savings at once."""
    found = np.empty((0, len(losses)), dtype=int)
    if len(costs) < 2 or sum(map(len, losses)) > MOST_JOINT:
        return found
    told = [np.where(np.isfinite(loss), loss, LOST) for loss in losses]
    least = [[values - values.min() for values in table] for table in costs]
    for share in JOINT:
        row = solver.within_all(told, least, [share * sum(float(values.max()) for values in table) for table in least])
        found = found if row is None else np.vstack([found, row])
    return found
