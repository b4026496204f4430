"""Which choices to take under a budget: exact dynamic programming for separable costs, and descent on the full forecast."""

from collections.abc import Callable, Sequence

import numpy as np

BUCKETS = 10_000


def knapsack(losses: Sequence[np.ndarray], costs: Sequence[np.ndarray], budget: float, buckets: int = BUCKETS) -> np.ndarray:
    """(buckets + 1, units) choices: row b has the least total loss among the selections, one option per unit, whose cost is
    surely within ``b / buckets * budget``; -1 where there is none.

    The multiple-choice knapsack by dynamic programming over a discretised budget (Frantar and Alistarh 2022, SPDY,
    https://arxiv.org/abs/2201.13096, algorithm 1). Costs are rounded up, so that no answer breaks its budget.
    """
    step = budget / buckets
    best = np.zeros(buckets + 1)
    picks = np.zeros((len(losses), buckets + 1), dtype=np.int32)
    weights = [np.ceil(np.asarray(cost, dtype=float) / step - 1e-9).astype(np.int64) for cost in costs]
    for unit, (loss, weight) in enumerate(zip(losses, weights, strict=True)):
        table = np.full((len(loss), buckets + 1), np.inf)
        for option in range(len(loss)):
            if weight[option] <= buckets:
                table[option, weight[option] :] = best[: buckets + 1 - weight[option]] + loss[option]
        picks[unit] = table.argmin(0)
        best = table.min(0)
    return backtrack(picks, weights, best)


def backtrack(picks: np.ndarray, weights: Sequence[np.ndarray], best: np.ndarray) -> np.ndarray:
    """(buckets + 1, units) choices from the tables of the dynamic program, for all budgets at once."""
    units, width = picks.shape
    place = np.arange(width)
    found = np.full((width, units), -1, dtype=np.int32)
    reachable = np.isfinite(best)
    for unit in range(units - 1, -1, -1):
        choice = picks[unit, place]
        found[reachable, unit] = choice[reachable]
        place = np.where(reachable, place - weights[unit][choice], 0)
    return found


def descend(score: Callable[[np.ndarray], np.ndarray], start: np.ndarray, counts: Sequence[int], most: int = 200) -> np.ndarray:
    """Choices (D,) from which no change of one domain, nor the best change of every domain at once, lowers ``score``.

    ``score`` takes rows of choices (n, D) and returns (n,).
    """
    current = np.array(start)
    value = float(score(current[None])[0])
    for _ in range(most):
        rows, places = neighbours(current, counts)
        if not len(rows):
            return current
        found = score(rows)
        edges = np.flatnonzero(np.r_[True, places[1:] != places[:-1]])
        joint = current.copy()
        for first, last in zip(edges, [*edges[1:], len(places)], strict=True):
            best = first + int(found[first:last].argmin())
            if found[best] < value:
                joint[places[best]] = rows[best, places[best]]
        together = float(score(joint[None])[0])
        single = int(np.argmin(found))
        if together < min(value, found[single]) - 1e-12:
            current, value = joint, together
        elif found[single] < value - 1e-12:
            current, value = rows[single], float(found[single])
        else:
            return current
    return current


def neighbours(point: np.ndarray, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """(rows that differ from ``point`` in one domain, which domain that is)."""
    places = np.repeat(np.arange(len(point)), counts)
    choices = np.concatenate([np.arange(count) for count in counts])
    other = choices != point[places]
    places, choices = places[other], choices[other]
    rows = np.repeat(point[None], len(places), axis=0)
    rows[np.arange(len(places)), places] = choices
    return rows, places
