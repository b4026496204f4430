"""losses.py: the drop that a gap stands for."""

import numpy as np
import pytest

from autoslim.losses import LEAST, MOST, SURE, Loss, allowed, learned, weighed


@pytest.mark.parametrize(("root", "line"), [(0.04, 0.0), (0.0, 0.2), (0.03, 0.1)])
def test_a_law_is_found_again_in_noisy_counts(root, line):
    """400 samples of which a binomial number changes: both parts of the law are found within the noise of 60 results."""
    generator = np.random.default_rng(0)
    gaps = np.exp(generator.uniform(np.log(1e-3), np.log(0.2), 60))
    true = root * np.sqrt(gaps) + line * gaps
    found = learned(gaps, generator.binomial(400, true) / 400)
    check = np.array([0.003, 0.01, 0.03, 0.1])
    assert Loss(found.root, found.line, 1.0)(check) == pytest.approx(root * np.sqrt(check) + line * check, rel=0.3, abs=0.0025)


def test_a_lost_network_does_not_decide_what_a_small_gap_costs():
    gaps, drops = [0.002, 0.01, 0.04], [0.002, 0.004, 0.008]
    assert learned([*gaps, 0.9], [*drops, 0.45]) == learned(gaps, drops)
    assert learned([*gaps, 0.9], [*drops, 0.09]) != learned(gaps, drops)


@pytest.mark.parametrize("empty", [([], []), ([float("nan")], [0.01]), ([0.0], [0.0])])
def test_without_a_result_a_guess_serves(empty):
    assert learned(*empty)([0.01]) == pytest.approx(0.005)


def test_more_gap_never_costs_less_and_nothing_costs_more_than_all_that_counts():
    """Also where results say that the metric grows with the gap."""
    found = learned([0.01, 0.05, 0.1], [0.01, -0.01, -0.02])
    drops = found(np.geomspace(1e-6, 10, 50))
    assert (np.diff(drops) >= 0).all()
    assert drops.max() <= found.most
    assert found.root >= 0
    assert found.line >= 0


def test_the_limit_is_read_off_the_results():
    """By hand: a relative drop of 0.01 that used up half of what is allowed tells of 0.02."""
    assert allowed(np.array([0.01, 0.03, 0.0, -0.01]), np.array([0.5, 1.5, 0.0, -0.5])) == pytest.approx(0.02)
    assert allowed(np.array([0.01]), np.array([np.nan])) == MOST
    assert allowed(np.array([]), np.array([])) == MOST
    assert allowed(np.array([1e-6]), np.array([1.0])) == LEAST


def test_two_estimates_are_weighed_by_their_variances():
    """The mean of two normal estimates, by hand: 0.01 +- 0.01 * SURE and 0.03 +- 0.005."""
    left, right = 1 / (0.01 * SURE) ** 2, 1 / 0.005**2
    assert weighed(0.01, 0.03, 0.005) == pytest.approx((0.01 * left + 0.03 * right) / (left + right))
    assert weighed(0.01, 0.03, 1e-6) == pytest.approx(0.03, rel=1e-3)
    assert weighed(0.01, 0.03, 10.0) == pytest.approx(0.01, rel=1e-3)
    assert weighed(0.0, 0.03, 0.005) == pytest.approx(0.0, abs=1e-6)
