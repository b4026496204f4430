"""strategies/_designs.py: what a first population tells."""

import numpy as np
import pytest

from autoslim.strategies._designs import designed, information


def test_every_choice_is_there_equally_often():
    rows = designed([2, 4, 2], 8, np.random.default_rng(0))
    assert rows.shape == (8, 3)
    for place, count in enumerate((2, 4, 2)):
        assert np.bincount(rows[:, place], minlength=count).tolist() == [8 // count] * count


def test_four_points_tell_two_switches_apart():
    """The full factorial of two switches is the only balanced design of four points in which they are orthogonal."""
    for seed in range(5):
        rows = designed([2, 2], 4, np.random.default_rng(seed))
        assert sorted(map(tuple, rows.tolist())) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_information_is_the_determinant_worked_out_by_hand():
    """Two orthogonal switches of four points: each has a sum of squares of 1 around its mean; always changed together they tell one effect."""
    apart, together = np.array([(0, 0), (0, 1), (1, 0), (1, 1)]), np.array([(0, 0), (0, 0), (1, 1), (1, 1)])
    assert information(apart, [2, 2], [0, 1]) == pytest.approx(np.log(1.1 * 1.1))
    assert information(together, [2, 2], [0, 1]) == pytest.approx(np.log(1.1 * 1.1 - 1))


def test_only_what_is_told_counts():
    """Of three switches two count: these are orthogonal whatever the third is."""
    rows = designed([2, 2, 2], 4, np.random.default_rng(1), told=[0, 2])
    assert {tuple(row) for row in rows[:, [0, 2]].tolist()} == {(0, 0), (0, 1), (1, 0), (1, 1)}
