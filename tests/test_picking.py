"""pick: by budget, knee and weights, against rules worked out by hand; its reasons name what was nearly chosen."""

import pytest

import studies
from autoslim import tables
from autoslim.budget import Budget, Drop, Limit
from autoslim.errors import UserError
from autoslim.reporting import picking
from autoslim.reporting.context import Material


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return Material(studies.make(tmp_path_factory.mktemp("study"), 80, verify=10))


def under(material, **limits):
    drop = limits.pop("drop", None)
    budget = Budget({name: Limit(value, False) for name, value in limits.items()}, Drop(drop, False) if drop else None)
    return material.context | {"budget": budget}


def test_a_budget_is_answered_by_the_rule_of_the_tables(material):
    for ms in (3.0, 5.0, 8.0, 20.0):
        context = under(material, ms=ms)
        found = picking.pick(material, context)
        rows = picking.judged(material.rows, context)
        assert found.row["key"] == tables.best(rows, context)["key"]
        assert found.row["latency_ms_high"] <= ms
        assert f"{sum(row['feasible'] for row in rows)} of {len(rows)} verified points" in found.why[0]


def test_alternatives_are_the_next_best_and_the_nearest_misses(material):
    context = under(material, ms=4.0)
    found = picking.pick(material, context)
    good = [row for row in picking.judged(material.rows, context) if row["feasible"] and row["key"] != found.row["key"]]
    assert found.alternatives[0]["row"]["key"] == tables.best(good, context)["key"]
    misses = [other for other in found.alternatives if other["why"].startswith("rejected")]
    slow = sorted((row for row in material.rows if row["latency_ms_high"] > 4.0), key=lambda row: row["latency_ms_high"])
    assert [other["row"]["key"] for other in misses] == [row["key"] for row in slow[:2]]
    assert "above the limit" in misses[0]["why"]


def test_weights_on_one_goal_choose_its_best_point(material):
    context = under(material)
    fastest = picking.pick(material, context, weights={"latency_ms": 1.0}).row
    assert fastest["latency_ms"] == min(row["latency_ms"] for row in material.rows)
    truest = picking.pick(material, context, weights={"metric": 1.0}).row
    assert truest["metric_val"] == max(row["metric_val"] for row in material.rows)
    mixed = picking.pick(material, context, weights={"metric": 1.0, "latency_ms": 1.0})
    by_hand = by_weights(material, 1.0, 1.0)
    assert mixed.row["key"] == by_hand


def by_weights(material, metric, time):
    """The row of least weighted sum over the two-goal front, with plain loops."""
    base = next(row for row in material.rows if row["label"] == "untouched")["metric_val"]
    points = {row["key"]: ((base - row["metric_val"]) / base, row["latency_ratio"]) for row in material.rows}
    front = {key: a for key, a in points.items() if not any(b[0] <= a[0] and b[1] <= a[1] and b != a for b in points.values())}
    lows = [min(a[i] for a in front.values()) for i in (0, 1)]
    spans = [max(a[i] for a in front.values()) - lows[i] for i in (0, 1)]
    return min(front, key=lambda key: metric * (front[key][0] - lows[0]) / spans[0] + time * (front[key][1] - lows[1]) / spans[1])


def test_the_knee_is_the_sum_with_equal_weights(material):
    context = under(material)
    knee = picking.pick(material, context, knee=True)
    assert knee.row["key"] == picking.pick(material, context, weights=dict.fromkeys(studies.OBJECTIVES, 2.0)).row["key"]
    assert "knee" in knee.why[1]


def test_a_budget_that_nothing_meets_names_the_nearest_miss(material):
    found = picking.pick(material, under(material, ms=0.001))
    assert not found.met
    assert found.row["latency_ms_high"] == min(row["latency_ms_high"] for row in material.rows)
    assert "No verified point meets the budget" in found.why[0]
    dropped = picking.pick(material, under(material, ms=4.0, drop=0.001))
    assert not dropped.met
    assert "drop on validation data" in " ".join(dropped.why)


@pytest.mark.parametrize("text", ["foo=1", "metric=0", "metric=x", "latency_ms=-1", ""])
def test_wrong_weights_are_refused_with_what_is_allowed(text):
    with pytest.raises(UserError, match="allowed: NAME=NUMBER"):
        picking.parse_weights(text)


def test_weights_without_a_number_count_once():
    assert picking.parse_weights("metric, size_bytes=2") == {"metric": 1.0, "size_bytes": 2.0}
