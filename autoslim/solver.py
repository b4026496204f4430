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


#: a kind of option that leaves things as the unit before left them
PASSING = -1


def chain(
    losses: Sequence[np.ndarray],
    costs: Sequence[np.ndarray],
    kinds: Sequence[np.ndarray],
    turn: float,
    budget: float,
    buckets: int = BUCKETS,
) -> np.ndarray:
    """As :func:`knapsack`, for units in a row between which a change of kind costs ``turn``, as tensors do that go from float to integer
    kernels and back. ``kinds``: per unit the kind of each option, from 0, or PASSING for one that is of no kind.

    The state of the dynamic program is the kind so far; the first unit of any kind turns nothing.
    """
    step = budget / buckets
    weights = [np.ceil(np.asarray(cost, dtype=float) / step - 1e-9).astype(np.int64) for cost in costs]
    toll = int(np.ceil(turn / step - 1e-9))
    states = 1 + max((int(kind.max()) for kind in kinds if len(kind)), default=0)
    best = np.full((states + 1, buckets + 1), np.inf)  # the last state: of no kind yet
    best[states] = 0.0
    options, froms = [np.zeros((len(losses), states + 1, buckets + 1), dtype=np.int32) for _ in range(2)]
    for unit, (loss, weight, kind) in enumerate(zip(losses, weights, kinds, strict=True)):
        after = np.full_like(best, np.inf)
        for option in range(len(loss)):
            for state in range(states + 1):
                to = state if kind[option] == PASSING else int(kind[option])
                spent = int(weight[option]) + (toll if to != state != states else 0)
                if spent > buckets:
                    continue
                value = best[state, : buckets + 1 - spent] + loss[option]
                place = slice(spent, None)
                less = value < after[to, place]
                after[to, place][less] = value[less]
                options[unit, to, place][less] = option
                froms[unit, to, place][less] = state
        best = after
    return unchained(options, froms, weights, kinds, toll, best)


def unchained(
    options: np.ndarray,
    froms: np.ndarray,
    weights: Sequence[np.ndarray],
    kinds: Sequence[np.ndarray],
    toll: int,
    best: np.ndarray,
) -> np.ndarray:
    """(buckets + 1, units) choices from the tables of :func:`chain`, for all budgets at once."""
    units, states, width = options.shape
    place, state = np.arange(width), best.argmin(0)
    found = np.full((width, units), -1, dtype=np.int32)
    reachable = np.isfinite(best.min(0))
    for unit in range(units - 1, -1, -1):
        choice, before = options[unit, state, place], froms[unit, state, place]
        found[reachable, unit] = choice[reachable]
        turned = (before != state) & (before != states - 1) & (np.asarray(kinds[unit])[choice] != PASSING)
        place = np.where(reachable, place - weights[unit][choice] - toll * turned, 0)
        state = np.where(reachable, before, 0)
    return found


def within_all(losses: Sequence[np.ndarray], costs: Sequence[Sequence[np.ndarray]], budgets: Sequence[float]) -> np.ndarray | None:
    """(units,) choices of least total loss that keep several budgets at once, ``costs[k][unit]`` the cost of its options against budget k;
    None where there are none. Exact, by mixed-integer programming (HiGHS, Huangfu and Hall 2018)."""
    from scipy import optimize

    counts = [len(loss) for loss in losses]
    first = np.concatenate([[0], np.cumsum(counts)])
    one = np.zeros((len(losses), first[-1]))
    for unit, count in enumerate(counts):
        one[unit, first[unit] : first[unit] + count] = 1.0
    spent = np.array([np.concatenate([np.asarray(cost, dtype=float) for cost in each]) for each in costs])
    scale = np.maximum(np.abs(np.asarray(budgets, dtype=float)), 1e-12)
    limits = [
        optimize.LinearConstraint(one, 1.0, 1.0),
        optimize.LinearConstraint(spent / scale[:, None], -np.inf, np.asarray(budgets) / scale),
    ]
    found = optimize.milp(np.concatenate(losses), constraints=limits, integrality=np.ones(first[-1]), bounds=optimize.Bounds(0, 1))
    if found.x is None:
        return None
    return np.array([int(found.x[first[unit] : first[unit + 1]].argmax()) for unit in range(len(losses))])


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
