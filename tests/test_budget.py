"""budget.py and metrics.py: what users may write, and by how much a measurement breaks it, against hand formulas."""

import json

import pytest

from autoslim.budget import Budget, Drop, Limit, drop, feasible, parse_drop, parse_limit
from autoslim.errors import UserError
from autoslim.metrics import METRICS, OBJECTIVES, Measurement, Value, direction_of, loss_sign

UNTOUCHED = Measurement({"metric": Value(0.9), "latency_ms": Value(10.0, 9.8, 10.2), "size_bytes": Value(4e6), "macs": Value(2e8)})


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("20", Limit(20.0, False)),
        (" 20 ", Limit(20.0, False)),
        (20, Limit(20.0, False)),
        (2.5, Limit(2.5, False)),
        ("1e3", Limit(1000.0, False)),
        ("60%", Limit(0.6, True)),
        ("60 %", Limit(0.6, True)),
        ("150%", Limit(1.5, True)),
        ("50M", Limit(50e6, False)),
        ("50m", Limit(50e6, False)),
        ("2k", Limit(2e3, False)),
        ("1.5G", Limit(1.5e9, False)),
    ],
)
def test_limits_that_are_read(text, limit):
    got = parse_limit(text, "--budget")
    assert got.relative is limit.relative
    assert got.amount == pytest.approx(limit.amount, rel=1e-12)


def test_the_unit_factor_applies_to_absolute_limits_only():
    assert parse_limit("5", "--budget-mb", 1e6) == Limit(5e6, False)
    assert parse_limit("50%", "--budget-mb", 1e6) == Limit(0.5, True)


@pytest.mark.parametrize("text", ["", "x", "0", "-5", "-5%", "0%", "nan", "inf", "1e999", "20ms", "5 5", "%", "--5", "1,5", "60%%", None])
def test_limits_that_are_refused_by_name(text):
    with pytest.raises(UserError, match=r"--budget-ms: got .*allowed: a positive number"):
        parse_limit(text, "--budget-ms")


@pytest.mark.parametrize(
    ("text", "amount", "relative"),
    [
        ("1pp", 0.01, False),
        ("0.5 pp", 0.005, False),
        ("1%", 0.01, True),
        ("0.01", 0.01, False),
        (0.02, 0.02, False),
        ("0", 0.0, False),
        ("3", 3.0, False),
    ],
)
def test_drops_that_are_read(text, amount, relative):
    got = parse_drop(text)
    assert got.relative is relative
    assert got.amount == pytest.approx(amount, rel=1e-12)


@pytest.mark.parametrize("text", ["", "-1pp", "1p", "pp", "nan", "inf%", "1 percent", None])
def test_drops_that_are_refused(text):
    with pytest.raises(UserError, match=r"--max-drop: got .*allowed: 1pp"):
        parse_drop(text)


def test_limits_break_by_their_share_and_latency_with_the_upper_end():
    budget = Budget({"ms": Limit(8.0, False), "mb": Limit(0.5, True), "macs": Limit(1e8, False)})
    found = Measurement({"latency_ms": Value(7.9, 7.0, 8.8), "size_bytes": Value(1.5e6), "macs": Value(1.2e8)})
    got = budget.violations(found, UNTOUCHED, "max")
    assert got == pytest.approx({"ms": 8.8 / 8 - 1, "mb": 1.5e6 / 2e6 - 1, "macs": 0.2})
    assert not feasible(got)
    assert budget.bound("mb", UNTOUCHED) == 2e6
    assert budget.bound("memory_mb", UNTOUCHED) is None


def test_a_share_of_the_time_is_held_against_the_ratio_and_not_against_other_hours_milliseconds():
    """The machine runs at half its speed since preparation: the file still takes 0.43 of the untouched model's time."""
    budget = Budget({"ms": Limit(0.5, True)})
    slow = Measurement({"latency_ms": Value(8.6, 8.4, 8.8), "latency_ratio": Value(0.43, 0.42, 0.45)})
    assert budget.violations(slow, UNTOUCHED, "max") == pytest.approx({"ms": 0.45 / 0.5 - 1})
    assert not feasible(
        budget.violations(Measurement({"latency_ratio": Value(0.49, 0.48, 0.51), "latency_ms": Value(1.0)}), UNTOUCHED, "max")
    )
    assert budget.judged_by("ms") == "latency_ratio"
    assert budget.threshold("ms", UNTOUCHED) == 0.5
    assert Budget({"ms": Limit(8.0, False)}).judged_by("ms") == "latency_ms"


def test_the_untouched_model_takes_all_of_its_own_time_and_no_more():
    noisy = Measurement({"latency_ms": Value(10.0, 9.0, 11.0), "latency_ratio": Value(1.0, 0.98, 1.02)})
    assert feasible(Budget({"ms": Limit(1.0, True)}).violations(noisy, noisy, "max"))
    assert not feasible(Budget({"ms": Limit(0.99, True)}).violations(noisy, noisy, "max"))


def test_a_limit_that_is_met_exactly_holds():
    budget = Budget({"mb": Limit(4e6, False)})
    assert feasible(budget.violations(UNTOUCHED, UNTOUCHED, "max"))
    assert not feasible({"mb": 1e-6})
    assert feasible({})


def test_what_was_not_measured_or_not_limited_is_left_out():
    budget = Budget({"ms": Limit(8.0, False), "memory_mb": Limit(0.5, True)}, Drop(0.01, False))
    assert budget.violations(Measurement({"size_bytes": Value(9e9)}), UNTOUCHED, "max") == {}
    assert "memory_mb" not in budget.violations(Measurement({"peak_memory_bytes": Value(1e6)}), UNTOUCHED, "max"), (
        "the untouched value is unknown"
    )
    assert budget.names() == ("ms", "memory_mb", "max_drop")


@pytest.mark.parametrize(
    ("limit", "direction", "untouched", "value", "expected"),
    [
        (Drop(0.02, False), "max", 0.9, 0.89, (0.01 - 0.02) / 0.02),
        (Drop(0.02, False), "max", 0.9, 0.86, (0.04 - 0.02) / 0.02),
        (Drop(0.02, False), "max", 0.9, 0.95, (-0.05 - 0.02) / 0.02),
        (Drop(0.10, True), "max", 0.8, 0.70, (0.10 - 0.08) / 0.08),
        (Drop(0.10, True), "min", 20.0, 23.0, (3.0 - 2.0) / 2.0),
        (Drop(0.10, True), "max", -20.0, -23.0, (3.0 - 2.0) / 2.0),
        (Drop(0.5, False), "min", 20.0, 19.0, (-1.0 - 0.5) / 0.5),
        (Drop(0.001, False), "max", 0.9, 0.89, 0.01 / 0.001 - 1),
        (Drop(0.001, True), "min", 20.0, 20.05, 0.05 / 0.02 - 1),
        (Drop(0.0, False), "max", 0.9, 0.891, 0.009 / 0.009),
        (Drop(0.0, False), "max", 0.9, 0.9, 0.0),
    ],
)
def test_max_drop_in_both_directions(limit, direction, untouched, value, expected):
    budget = Budget({}, limit)
    got = budget.violations(Measurement({"metric": Value(value)}), Measurement({"metric": Value(untouched)}), direction)
    assert got == {"max_drop": pytest.approx(expected, abs=1e-9)}
    assert feasible(got) is (expected <= 0)


def test_a_share_of_an_untouched_value_of_zero_does_not_divide_by_zero():
    budget = Budget({"macs": Limit(0.6, True)})
    nothing = Measurement({"macs": Value(0)})
    assert feasible(budget.violations(nothing, nothing, "max"))


def test_drop_is_positive_where_things_got_worse():
    assert drop(0.8, 0.9, "max") == pytest.approx(0.1)
    assert drop(0.8, 0.9, "min") == pytest.approx(-0.1)


def test_a_measurement_survives_json_and_unknown_is_none():
    found = Measurement({"metric": Value(0.5, 0.4, 0.6), "macs": Value(7)}, {"f1": 0.3}, {"threads": 2}, ("attention", "lookups"))
    again = Measurement.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == found
    assert again.get("latency_ms") is None
    assert again.upper("latency_ms") is None
    assert (again.upper("metric"), again.upper("macs")) == (0.6, 7)


def test_directions_have_one_source():
    assert set(OBJECTIVES) <= set(METRICS)
    assert direction_of("metric", "min") == "min"
    assert direction_of("metric", "max") == "max"
    assert direction_of("latency_ms", "max") == "min"
    assert direction_of("throughput", "min") == "max"
    assert (loss_sign("min"), loss_sign("max")) == (1, -1)


@pytest.mark.parametrize("text", ["5M", "20m", "1k", "2G"])
def test_only_counts_take_the_letters_of_counts(text):
    """--budget-mb 5M would be five million megabytes."""
    with pytest.raises(UserError, match="allowed: a positive number"):
        parse_limit(text, "--budget-mb", 1e6, counts=False)
    assert parse_limit(text, "--budget-macs").amount >= 1000
