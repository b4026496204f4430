"""statistics.py against hand numbers and coverage on seeded draws."""

import numpy as np
import pytest

from autoslim.statistics import corpus_interval, mean_interval, paired_interval, quick_interval


@pytest.mark.parametrize(
    ("ones", "n", "low", "high"),
    [
        (8, 10, 0.4901625, 0.9433178),  # Wilson's formula worked by hand with z = 1.959964
        (0, 20, 0.0, 0.1611252),
        (20, 20, 0.8388748, 1.0),
        (50, 100, 0.4038315, 0.5961685),
    ],
)
def test_wilson_on_zeros_and_ones(ones, n, low, high):
    got = mean_interval(np.array([1.0] * ones + [0.0] * (n - ones)))
    assert got.value == pytest.approx(ones / n)
    assert (got.low, got.high) == pytest.approx((low, high), abs=1e-6)


def test_bootstrap_is_close_to_the_normal_interval_of_a_mean():
    parts = np.random.default_rng(1).normal(5.0, 2.0, 400)
    half = 1.96 * parts.std(ddof=1) / 20
    got = mean_interval(parts)
    assert got.value == pytest.approx(parts.mean())
    # a percentile of 2000 draws is known to about 5 % of the half-width
    assert (got.low, got.high) == pytest.approx((parts.mean() - half, parts.mean() + half), abs=0.15 * half)
    assert got == mean_interval(parts), "seeded"


def test_a_quick_interval_stays_within_what_a_mean_can_be():
    ones = np.array([1.0] * 199 + [0.0])
    assert quick_interval(ones) == mean_interval(ones), "Wilson"
    shares = np.random.default_rng(4).beta(0.2, 0.05, 12)  # most near 1: the normal interval passes it
    plain = shares.mean() + 1.96 * shares.std(ddof=1) / 12**0.5
    assert plain > 1.0
    assert quick_interval(shares).high == 1.0
    assert quick_interval(shares).low == pytest.approx(2 * shares.mean() - plain, abs=1e-4)
    errors = shares * 10  # no such bound is known
    assert quick_interval(errors).high == pytest.approx(10 * plain, abs=1e-3)


def test_a_paired_interval_sees_what_unpaired_ones_hide():
    base = np.random.default_rng(2).normal(0, 10, 300)
    got = paired_interval(base - 0.5, base + np.random.default_rng(3).normal(0, 0.1, 300))
    assert got.value == pytest.approx(-0.5, abs=0.03)
    assert -0.53 < got.low < got.value < got.high < -0.47


def test_the_sign_of_a_paired_interval_is_ours_minus_theirs():
    ours, theirs = np.array([1.0, 1, 1, 0] * 50), np.array([1.0, 1, 0, 0] * 50)
    got = paired_interval(ours, theirs)
    assert got.value == 0.25
    assert 0.18 < got.low < 0.25 < got.high < 0.32  # 0.25 -+ 1.96 * sqrt(0.25 * 0.75 / 200) = 0.19 .. 0.31


def test_equal_pairs_give_the_rule_of_three_and_not_certainty():
    same = np.array([1.0, 0.0] * 30)
    got = paired_interval(same, same)
    assert (got.value, got.low, got.high) == pytest.approx((0.0, -0.05, 0.05))


def test_wilson_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        got = mean_interval((generator.random(60) < 0.9).astype(float))
        hits += got.low <= 0.9 <= got.high
    assert 0.92 <= hits / 1000 <= 0.98  # 95 % with a standard error of 0.7 %; Wilson's own error at n = 60 is 1 %


def test_a_corpus_figure_is_resampled_by_batches():
    figures = np.arange(50.0)
    low, high = corpus_interval(lambda drawn: figures[drawn].mean(), 50)
    assert low < 24.5 < high
    # the mean of 50 uniform integers has a standard error of 14.4 / sqrt(50) = 2.04
    assert high - low == pytest.approx(2 * 1.96 * 2.04, rel=0.25)
