"""solver.py: the knapsack against brute force, and descent against full enumeration where one exists."""

import itertools

import numpy as np
import pytest

from autoslim.solver import PASSING, chain, descend, knapsack, neighbours, within_all


def brute(losses, costs, budget):
    """(least loss within the budget, or None) over every selection."""
    found = [
        sum(loss[i] for loss, i in zip(losses, picks, strict=True))
        for picks in itertools.product(*(range(len(loss)) for loss in losses))
        if sum(cost[i] for cost, i in zip(costs, picks, strict=True)) <= budget
    ]
    return min(found, default=None)


@pytest.mark.parametrize("seed", range(6))
def test_every_budget_is_answered_as_brute_force_would(seed):
    """Costs on the grid of buckets, so that rounding up loses nothing."""
    draw = np.random.default_rng(seed)
    units, buckets = 5, 60
    losses = [draw.random(4) for _ in range(units)]
    costs = [draw.integers(0, 20, size=4).astype(float) for _ in range(units)]
    rows = knapsack(losses, costs, float(buckets), buckets)
    for budget in range(buckets + 1):
        best = brute(losses, costs, budget)
        if best is None:
            assert (rows[budget] == -1).all()
        else:
            assert sum(loss[i] for loss, i in zip(losses, rows[budget], strict=True)) == pytest.approx(best)
            assert sum(cost[i] for cost, i in zip(costs, rows[budget], strict=True)) <= budget


@pytest.mark.parametrize("seed", range(4))
def test_costs_are_rounded_up_so_no_answer_breaks_its_budget(seed):
    draw = np.random.default_rng(seed)
    losses = [draw.random(5) for _ in range(7)]
    costs = [draw.random(5) for _ in range(7)]
    rows = knapsack(losses, costs, 3.0, 500)
    for bucket, row in enumerate(rows):
        if row[0] >= 0:
            assert sum(cost[i] for cost, i in zip(costs, row, strict=True)) <= 3.0 * bucket / 500 + 1e-9


def test_an_option_of_cost_zero_is_taken_into_account():
    rows = knapsack([np.array([1.0, 0.5])], [np.array([0.0, 2.0])], 4.0, 4)
    assert rows[:, 0].tolist() == [0, 0, 1, 1, 1]


def test_neighbours_differ_in_one_place_each():
    rows, places = neighbours(np.array([0, 2, 1]), [2, 3, 1])
    assert rows.tolist() == [[1, 2, 1], [0, 0, 1], [0, 1, 1], [0, 2, 0]]
    assert places.tolist() == [0, 1, 1, 2]


def test_descent_finds_the_least_of_a_separable_sum_and_stops_at_a_local_minimum_otherwise():
    draw = np.random.default_rng(0)
    tables = [draw.random(4) for _ in range(6)]
    score = lambda rows: sum(table[rows[:, i]] for i, table in enumerate(tables))  # noqa: E731
    found = descend(score, np.zeros(6, dtype=int), [4] * 6)
    assert found.tolist() == [int(table.argmin()) for table in tables]
    coupled = lambda rows: np.where((rows == 1).all(1), -1.0, rows.sum(1).astype(float))  # noqa: E731
    end = descend(coupled, np.array([0, 0, 0]), [2, 2, 2])
    assert all(coupled(row[None])[0] >= coupled(end[None])[0] for row in neighbours(end, [2, 2, 2])[0])


def walked(kinds, picks, turn):
    """What a selection pays for changes of kind."""
    seen = [kind[i] for kind, i in zip(kinds, picks, strict=True) if kind[i] != PASSING]
    return turn * sum(left != right for left, right in itertools.pairwise(seen))


@pytest.mark.parametrize("seed", range(6))
def test_a_chain_with_turns_is_answered_as_brute_force_would(seed):
    """Whole costs and turns, so that rounding up loses nothing; some options pass the kind on."""
    draw = np.random.default_rng(seed)
    units, buckets, turn = 5, 50, 3.0
    losses = [draw.random(3) for _ in range(units)]
    costs = [draw.integers(0, 15, size=3).astype(float) for _ in range(units)]
    kinds = [draw.integers(PASSING, 2, size=3) for _ in range(units)]
    rows = chain(losses, costs, kinds, turn, float(buckets), buckets)
    every = list(itertools.product(range(3), repeat=units))
    value = {p: sum(loss[i] for loss, i in zip(losses, p, strict=True)) for p in every}
    price = {p: sum(cost[i] for cost, i in zip(costs, p, strict=True)) + walked(kinds, p, turn) for p in every}
    for budget in range(buckets + 1):
        best = min((value[p] for p in every if price[p] <= budget), default=None)
        if best is None:
            assert (rows[budget] == -1).all()
        else:
            picks = tuple(int(i) for i in rows[budget])
            assert value[picks] == pytest.approx(best)
            assert price[picks] <= budget


def test_a_chain_without_turns_is_a_knapsack():
    draw = np.random.default_rng(0)
    losses, costs = [draw.random(4) for _ in range(6)], [draw.integers(0, 9, size=4).astype(float) for _ in range(6)]
    kinds = [np.array([0, 0, 1, 1])] * 6
    rows, plain = chain(losses, costs, kinds, 0.0, 40.0, 40), knapsack(losses, costs, 40.0, 40)
    for row, other in zip(rows, plain, strict=True):
        assert (row[0] == -1) == (other[0] == -1)
        totals = [sum(loss[i] for loss, i in zip(losses, picks, strict=True)) for picks in (row, other) if row[0] >= 0]
        assert len(set(np.round(totals, 9))) <= 1


@pytest.mark.parametrize("seed", range(6))
def test_two_budgets_are_kept_as_brute_force_would(seed):
    draw = np.random.default_rng(seed)
    losses = [draw.random(4) for _ in range(5)]
    costs = [[draw.random(4) for _ in range(5)] for _ in range(2)]
    budgets = draw.uniform(1.0, 2.5, size=2)
    every = itertools.product(range(4), repeat=5)
    kept = [p for p in every if all(sum(c[i] for c, i in zip(each, p, strict=True)) <= b for each, b in zip(costs, budgets, strict=True))]
    found = within_all(losses, costs, budgets)
    if not kept:
        assert found is None
        return
    value = {p: sum(loss[i] for loss, i in zip(losses, p, strict=True)) for p in kept}
    assert value[tuple(int(i) for i in found)] == pytest.approx(min(value.values()))


def test_budgets_that_nothing_keeps_have_no_answer():
    assert within_all([np.array([0.0, 1.0])], [[np.array([3.0, 2.0])], [np.array([1.0, 9.0])]], [2.5, 5.0]) is None
