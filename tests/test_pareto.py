"""pareto.py against brute force and boxes worked by hand."""

import numpy as np
import pytest

from autoslim import pareto


def dominated(points, i):
    return any((other <= points[i]).all() and (other < points[i]).any() for other in points)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_front_is_brute_force_with_one_of_equal_rows(columns, seed):
    points = np.random.default_rng(seed).integers(0, 6, (30, columns)).astype(float)
    got = pareto.front(points)
    assert not any(dominated(points, i) for i in np.flatnonzero(got))
    kept = {tuple(row) for row in points[got]}
    assert kept == {tuple(points[i]) for i in range(len(points)) if not dominated(points, i)}
    assert len(kept) == got.sum(), "of equal rows one counts"


def test_front_of_nothing_and_of_one():
    assert pareto.front(np.zeros((0, 2))).shape == (0,)
    assert pareto.front(np.array([[3.0, 4.0]])).tolist() == [True]


def test_hypervolume_of_boxes_worked_by_hand():
    reference = np.array([4.0, 4.0])
    assert pareto.hypervolume(np.array([[1.0, 3.0], [3.0, 1.0]]), reference) == pytest.approx(3 * 1 + 1 * 3 - 1)
    assert pareto.hypervolume(np.array([[1.0, 3.0], [3.0, 1.0], [3.5, 3.5]]), reference) == pytest.approx(5), (
        "a dominated point adds nothing"
    )
    assert pareto.hypervolume(np.array([[5.0, 0.0]]), reference) == 0, "a point beyond the reference adds nothing"
    assert pareto.hypervolume(np.zeros((0, 2)), reference) == 0
    assert pareto.hypervolume(np.array([[1.0, 1.0, 2.0]]), np.array([2.0, 3.0, 4.0])) == pytest.approx(1 * 2 * 2)


def test_hypervolume_against_monte_carlo():
    generator = np.random.default_rng(0)
    points = generator.random((12, 3))
    drawn = generator.random((200_000, 3))
    share = np.zeros(len(drawn), dtype=bool)
    for point in points:
        share |= (point <= drawn).all(1)
    # a share of 200,000 draws has a standard error of at most 0.0011; 5 of them are allowed
    assert pareto.hypervolume(points, np.ones(3)) == pytest.approx(share.mean(), abs=0.006)


def test_knee_is_the_point_nearest_to_the_ideal_corner():
    assert pareto.knee(np.array([[0.0, 100.0], [0.2, 30.0], [1.0, 0.0]])) == 1
    assert pareto.knee(np.array([[0.0, 5.0], [1.0, 5.0]])) == 0, "an axis without a span does not count"
    assert pareto.knee(np.array([[7.0, 7.0]])) == 0
