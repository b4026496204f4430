"""hindsight.py: predicted against measured, by hand."""

import numpy as np
import pytest

from autoslim import hindsight
from autoslim.candidate import Done
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.study import Entry


def entry(number, predicted, measured, gap=None, cached=None):
    found = Measurement({"metric": Value(0.9), "latency_ms": Value(measured)}, facts={} if gap is None else {"gap": gap})
    memo = {"forecast": {"latency_ms": predicted, "gap": predicted}} if predicted is not None else {}
    return Entry(number, {}, "", memo, f"k{number}", Done(found, {}, "m", "s", Recipe()), cached)


def test_quality_counts_what_lies_within_a_tenth_and_how_ranks_agree():
    told = [
        entry(0, 1.0, 1.0, 1.0),
        entry(1, 2.1, 2.0, 2.1 * np.e),
        entry(2, 3.0, 4.0, 3.0),
        entry(3, None, 9.0),
        entry(4, 50.0, 1.0, cached=0),
    ]
    found = hindsight.quality(told)["latency_ms"]
    assert found == {
        "n": 3,
        "within_10_percent": pytest.approx(0.6667),
        "mean_error": pytest.approx((0.05 + 0.25) / 3, abs=1e-4),
        "rank_correlation": 1.0,
    }
    assert hindsight.quality(told)["gap"]["mean_error"] == pytest.approx(1 / 3, abs=1e-4)


def test_nothing_forecast_is_nothing_to_judge():
    assert hindsight.quality([entry(i, None, 1.0) for i in range(5)]) is None


def test_spearman_with_ties_and_constants():
    assert hindsight.spearman(np.array([1, 2, 2, 4.0]), np.array([1, 2, 3, 4.0])) == pytest.approx(0.9487, abs=1e-4)
    assert hindsight.spearman(np.array([3, 2, 1.0]), np.array([1, 2, 3.0])) == pytest.approx(-1)
    assert hindsight.spearman(np.ones(3), np.array([1, 2, 3.0])) == 0
