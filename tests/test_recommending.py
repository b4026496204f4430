"""recommending.py: which verified file to take, where the drop on few samples and the gap to the original tell two things."""

import math

import numpy as np
import pytest

import studies
from autoslim import recommending
from autoslim.budget import Budget, Drop
from autoslim.losses import Loss
from autoslim.metrics import Measurement, Value
from autoslim.reporting.context import Material
from autoslim.statistics import wilson

BASE = 0.99


def context_of(limit=None, **more):
    untouched = Measurement({"metric": Value(BASE), "latency_ms": Value(1.0), "size_bytes": Value(1000)})
    budget = Budget({}, None if limit is None else Drop(limit, False))
    return {
        "untouched": untouched,
        "objectives": ["metric", "latency_ms", "size_bytes"],
        "budget": budget,
        "metric_direction": "max",
        **more,
    }


def row(key, metric, expected, ratio, **more):
    """A verified row of 400 samples whose standard error is half a point."""
    found = {
        "key": key,
        "metric_val": metric,
        "metric_val_low": metric - 0.0098,
        "metric_val_high": metric + 0.0098,
        "metric_direction": "max",
    }
    return (
        found
        | {
            "drop_val": BASE - metric,
            "drop_expected": expected,
            "latency_ratio": ratio,
            "latency_ms": ratio,
            "size_ratio": ratio,
            "size_bytes": ratio,
            "feasible": True,
        }
        | more
    )


LUCKY, FAIR, NEAR = row("lucky", 0.99, 0.012, 0.1), row("fair", 0.9875, 0.004, 0.2), row("near", 0.99, 0.001, 0.9)


def test_the_cheapest_is_not_taken_where_its_gap_says_that_it_was_lucky():
    assert recommending.best([LUCKY, FAIR, NEAR], context_of(0.005))["key"] == "fair"
    assert recommending.best([LUCKY, FAIR, NEAR], context_of(0.002))["key"] == "near"
    assert recommending.best([LUCKY, FAIR, NEAR], context_of(0.02))["key"] == "lucky"


def test_without_a_limit_on_the_drop_the_cheapest_is_taken():
    assert recommending.best([LUCKY, FAIR, NEAR], context_of())["key"] == "lucky"


def test_where_all_are_expected_above_the_limit_the_one_with_the_least_is_taken():
    assert recommending.best([LUCKY, FAIR], context_of(0.003))["key"] == "fair"


def test_files_beyond_one_standard_error_take_no_part_however_near_they_are():
    worse = row("worse", 0.98, 0.0, 0.05)
    assert recommending.best([LUCKY, FAIR, worse], context_of(0.003))["key"] == "fair"


def test_a_row_of_an_earlier_version_counts_by_its_drop_on_validation_data():
    old = {name: value for name, value in LUCKY.items() if name != "drop_expected"}
    assert recommending.best([old, FAIR, NEAR], context_of(0.005))["key"] == "lucky"
    assert recommending.best([LUCKY | {"drop_expected": None}, FAIR, NEAR], context_of(0.005))["key"] == "lucky"


def test_the_law_of_a_study_is_that_of_its_results(tmp_path):
    """In these studies the gap is the drop itself, in points of a metric of 0.95."""
    material = Material(studies.make(tmp_path, 60))
    law = material.context["loss"]
    gaps = np.array([0.01, 0.03, 0.06])
    assert law(gaps) == pytest.approx(gaps / studies.BASE_METRIC, rel=0.05)
    for found in material.rows:
        assert found["drop_expected"] == pytest.approx(found["drop_val"], abs=0.002)


def test_without_a_law_or_an_interval_nothing_is_expected(tmp_path):
    from autoslim import tables

    material = Material(studies.make(tmp_path, 12))
    found = next(iter(material.points.values())).outcome.measurement
    plain = Measurement({**found.values, "metric": Value(found.get("metric"))}, facts=found.facts)
    assert tables.drop_expected(found, material.context) is not None
    assert tables.drop_expected(found, {**material.context, "loss": None}) is None
    assert tables.drop_expected(plain, material.context) is None
    assert tables.drop_expected(Measurement(found.values), material.context) is None


def test_recommended_files_exceed_the_limit_by_less():
    """Twenty files of 400 validation samples whose true drop is a twentieth of the root of their gap, the cheaper the more: of 200 such searches the
    rule with expectations recommends files that truly lose more than allowed by far less in sum than the rule without."""
    generator, law, limit = np.random.default_rng(0), Loss(0.05, 0.0, math.inf), 0.005
    excess = {True: 0.0, False: 0.0}
    for _ in range(200):
        gaps = np.exp(generator.uniform(math.log(1e-4), math.log(0.1), 20))
        true = law(gaps) * np.exp(0.2 * generator.standard_normal(20))
        rows = []
        for gap, drop in zip(gaps, true, strict=True):
            told = wilson(generator.random(400) < BASE - drop)
            found = Measurement({"metric": told}, facts={"gap": gap})
            expected = expectation(found, law)
            rows.append(row("", told.value, expected, 0.01 / gap, true=drop, metric_val_low=told.low, metric_val_high=told.high))
        rows = [one for one in rows if one["drop_val"] <= limit]
        for known in excess if rows else ():
            offered = rows if known else [one | {"drop_expected": None} for one in rows]
            excess[known] += max(0.0, recommending.best(offered, context_of(limit))["true"] - limit)
    assert excess[True] < 0.25 * excess[False]


def expectation(found, law):
    from autoslim import tables

    return tables.drop_expected(found, context_of(loss=law))
