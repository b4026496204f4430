"""compare: fronts and winners by hand, intervals that hold the value, refusal of unlike things."""

import numpy as np
import pytest

import studies
from autoslim.errors import UserError
from autoslim.reporting import comparison, comparison_page
from autoslim.reporting.context import Material


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("studies")
    slow = studies.make(root / "slow", 50, seed=1)
    fast = studies.make(root / "fast", 50, seed=1, better=0.3, environment={"processor": "another"})
    return comparison.sides([("slow", Material(slow)), ("fast", Material(fast))])


def test_a_study_that_is_faster_everywhere_wins_everywhere(found):
    told = comparison.compare(found)
    assert {row["study"] for row in told["front"] if row["label"] != "untouched"} == {"fast"}
    slow, fast = (study["hypervolume"] for study in told["studies"])
    assert fast["value"] > slow["value"]
    assert fast["low"] <= fast["value"] <= fast["high"]
    first = told["winners"]["latency_ratio"][0]
    assert (first["winner"], first["second"]) == ("fast", None)
    assert "fast covers most" in comparison.verdict_words(told)


def test_ranges_of_budgets_touch_and_end_open(found):
    for ranges in comparison.compare(found)["winners"].values():
        assert all(left["to"] == right["from"] for left, right in zip(ranges, ranges[1:], strict=False))
        assert ranges[-1]["to"] is None


def test_the_winner_of_a_budget_is_the_best_of_what_validation_chose(found):
    for budget in (0.3, 0.5, 0.9):
        told = comparison.verdict(found, "latency_ratio", budget)
        offers = []
        for side in found:
            within = [row for row in side.material.rows if row["latency_ratio_high"] <= budget]
            if within:
                offers.append((max(within, key=lambda row: row["metric_val"])["metric_test"], side.name))
        assert told["metric_test"] == pytest.approx(max(offers)[0])


def test_the_hypervolume_s_interval_holds_the_truth_nineteen_times_in_twenty(found):
    """Fronts with known coordinates are measured with noise of their stated size; the interval must hold the true volume most of the time."""
    side = found[0]
    truth = comparison.volume(side)["value"]
    untouched = comparison.untouched_row(side.material)
    points = np.array([comparison.coordinates(row, untouched) for row in side.material.rows])
    spread = np.array([comparison.spreads(row, untouched) for row in side.material.rows])
    generator, held = np.random.default_rng(3), 0
    for _ in range(40):
        shaken = points + spread * generator.standard_normal(points.shape)
        known = comparison.interval(shaken, spread, draws=150)
        held += known["low"] <= truth <= known["high"]
    assert held >= 34, "38 of 40 expected; 34 is four standard deviations below"


def test_the_interval_takes_back_what_noise_adds_to_a_volume():
    """Of many equal points the luckiest draw leads, so drawn volumes lie above the value; the interval must lie as far below it."""
    points, spread = np.full((30, 3), 0.3), np.full((30, 3), 0.05)
    known = comparison.interval(points, spread, draws=200)
    assert known["value"] - known["low"] > 0.02
    assert known["high"] == known["value"]


@pytest.mark.parametrize(
    ("identity", "named"),
    [({"task": "other"}, "the task"), ({"part": "encoder"}, "the part")],
)
def test_unlike_things_are_refused_and_the_reason_is_named(tmp_path, identity, named):
    one, two = studies.make(tmp_path / "a", 12), studies.make(tmp_path / "b", 12, identity=identity)
    with pytest.raises(UserError, match=f"a and b: cannot be compared, {named}"):
        comparison.sides([("a", Material(one)), ("b", Material(two))])


def test_another_runtime_and_other_test_data_are_refused(tmp_path):
    one, two, three = (studies.make(tmp_path / name, 12) for name in "abc")
    two.set_fact("model", two.fact("model") | {"target": "torch_eager"})
    with pytest.raises(UserError, match="the runtime differs"):
        comparison.sides([("a", Material(one)), ("b", Material(two))])
    rows = three.fact("verified")
    rows[0]["metric"]["value"] -= 0.1
    three.set_fact("verified", rows)
    with pytest.raises(UserError, match="tested on other data"):
        comparison.sides([("a", Material(one)), ("c", Material(three))])


def test_one_study_and_unverified_ones_are_refused(tmp_path):
    one = studies.make(tmp_path / "a", 12)
    with pytest.raises(UserError, match="two or more"):
        comparison.sides([("a", Material(one))])
    one.set_fact("verified", [])
    with pytest.raises(UserError, match="no verified points yet"):
        comparison.sides([("a", Material(one)), ("b", Material(one))])


def test_what_differed_is_named(found):
    rows = {row["what"]: row["values"] for row in comparison.differences(found)}
    assert rows["machine: processor"] == ["a processor", "another"]
    assert "study: seed" not in rows, "what is alike is not told"


def test_the_page_and_the_markdown_carry_the_verdict(found):
    told = comparison.compare(found)
    content = comparison_page.render(found, told)
    assert comparison.verdict_words(told) in content
    assert len(content.encode()) < 3_000_000
    assert comparison_page.markdown(told).startswith("fast covers most")
