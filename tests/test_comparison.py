"""compare: fronts and winners by hand, intervals that hold the value, refusal of unlike things."""

import json

import numpy as np
import pytest

import studies
from autoslim.cli.main import call
from autoslim.errors import UserError
from autoslim.reporting import comparison, comparison_page, differing
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
    one.set_fact("verified", [row | {"data": "360-aa"} for row in one.fact("verified")])
    three.set_fact("verified", [row | {"data": "360-bb"} for row in rows])
    two = studies.make(tmp_path / "d", 12)
    with_unknown = [("a", Material(two)), ("b", Material(one)), ("c", Material(three))]
    with pytest.raises(UserError, match="b and c: cannot be compared, they were tested on other samples"):
        comparison.sides(with_unknown)
    with pytest.raises(UserError, match="a and c: cannot be compared, they were tested on other samples .360-aa and 360-bb.: "):
        comparison.sides([("a", Material(one)), ("c", Material(three))])
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
    rows = {row["what"]: row["values"] for row in comparison.compare(found)["differences"]}
    assert rows["machine: processor"] == ["a processor", "another"]
    assert "study: seed" not in rows, "what is alike is not told"


def test_the_page_and_the_markdown_carry_the_verdict(found):
    told = comparison.compare(found)
    content = comparison_page.render(found, told)
    assert comparison.verdict_words(told) in content
    assert len(content.encode()) < 3_000_000
    assert comparison_page.markdown(told).startswith("fast covers most")


def named(*made):
    return comparison.sides([(name, Material(study)) for name, study in zip("abc", made, strict=False)])


def test_other_layers_are_told_however_long_the_rest_is(tmp_path):
    """The names agree for more than a table's cell shows; the difference comes after."""
    layers = [f"a.very.long.name.of.a.layer.{i}" for i in range(12)]
    told = comparison.compare(named(studies.make(tmp_path / "a", 12, layers), studies.make(tmp_path / "b", 12, [*layers[:-1], "other"])))
    rows = {row["what"]: row["values"] for row in told["differences"]}
    assert {"layers", "search space"} <= set(rows)
    assert ["other" in text for text in rows["layers"]] == [False, True], "what is shown is where they differ"
    assert all(len(text) < 260 for texts in rows.values() for text in texts)


def test_points_that_appeared_or_vanished_are_named(tmp_path):
    one, two = studies.make(tmp_path / "a", 30, seed=1), studies.make(tmp_path / "b", 30, seed=2)
    found = named(one, two)
    told = {row["key"]: row for row in differing.points([side.material for side in found])}
    fronts = [set(by_loops(side.material.rows)) for side in found]
    assert set(told) == fronts[0] ^ fronts[1]
    assert told, "other seeds find other points"
    for key, row in told.items():
        verified = [key in {other["key"] for other in side.material.rows} for side in found]
        assert row["where"] == [
            "front" if key in front else "dominated" if there else "" for front, there in zip(fronts, verified, strict=True)
        ]
    page, text = comparison_page.render(found, comparison.compare(found)), comparison_page.markdown(comparison.compare(found))
    key = next(iter(told))[:8]
    assert f"<td>{key}</td>" in page
    assert f"| `{key}` |" in text


def by_loops(rows):
    """Keys of the rows that no other row is at least as good as in drop, time and size."""
    places = {row["key"]: (row["drop_test"], row["latency_ratio"], row["size_ratio"]) for row in rows}
    return [a for a, p in places.items() if not any(q != p and all(x <= y for x, y in zip(q, p, strict=True)) for q in places.values())]


def test_devices_behind_commands_may_be_compared_and_are_named(tmp_path):
    one, two = studies.make(tmp_path / "a", 12), studies.make(tmp_path / "b", 12, better=0.2)
    for study, host in ((one, "board"), (two, "phone")):
        study.set_fact("model", study.fact("model") | {"target": f"cmd:ssh {host} run {{file}}"})
    told = comparison.compare(named(one, two))
    assert [study["timed_on"] for study in told["studies"]] == ["cmd:ssh board run {file}", "cmd:ssh phone run {file}"]
    assert any("several devices (a on cmd:ssh board" in note for note in told["notes"])
    assert "a on cmd:ssh board run {file}" in comparison_page.markdown(told)
    assert "b on cmd:ssh phone run {file}" in comparison_page.render(named(one, two), told)
    two.set_fact("model", two.fact("model") | {"target": "onnxruntime_cpu"})
    with pytest.raises(UserError, match=r"the runtime differs \(cmd and onnxruntime_cpu\)"):
        named(one, two)


def test_another_onnxruntime_is_named(tmp_path):
    made = [studies.make(tmp_path / name, 12, environment={"versions": {"onnxruntime": name}}) for name in ("1.1", "1.2")]
    told = comparison.compare(named(*made))
    assert {"what": "machine: versions: onnxruntime", "values": ["1.1", "1.2"]} in told["differences"]
    assert "The versions of onnxruntime differ: a with 1.1, b with 1.2." in told["notes"]


def test_an_unknown_fingerprint_of_the_test_data_is_said(tmp_path):
    one, two = studies.make(tmp_path / "a", 12), studies.make(tmp_path / "b", 12, identity={"weights": "other"})
    one.set_fact("verified", [row | {"data": "360-aa"} for row in one.fact("verified")])
    [note] = comparison.compare(named(one, two))["notes"]
    assert note == "It is unknown whether the test data are the same: b recorded no fingerprint of them."
    two.set_fact("verified", [row | {"data": "360-aa"} for row in two.fact("verified")])
    assert comparison.compare(named(one, two))["notes"] == []


def test_equal_studies_share_every_credit(tmp_path):
    one = Material(studies.make(tmp_path / "a", 30))
    told = comparison.compare(comparison.sides([("a", one), ("b", one)]))
    held = [sum(row["study"] == name for row in told["front"]) for name in "ab"]
    assert held[0] == held[1] > 0
    assert comparison.verdict_words(told).startswith("a and b cover the same")
    assert {row["winner"] for ranges in told["winners"].values() for row in ranges} == {"a and b"}
    assert told["differences"] == told["points"] == []


def test_studies_of_one_storage_are_compared_by_their_names(tmp_path, monkeypatch, capsys):
    url = f"sqlite:///{tmp_path / 'all.db'}"
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, better in zip(folders, (0.0, 0.3), strict=True):
        studies.make(folder, 12, storage=url, name=f"of-{folder.name}", better=better)
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    words = ["compare", *map(str, folders), "-o", str(tmp_path / "page.html"), "-f", "json"]
    assert call(words, False) == 2
    assert "one --study-name per DIR" in capsys.readouterr().err
    assert call([*words, "--study-name", "of-a", "--study-name", "of-b"], False) == 0
    told = json.loads(capsys.readouterr().out)
    assert [study["name"] for study in told["studies"]] == ["of-a", "of-b"]
    assert told["studies"][0]["hypervolume"]["value"] < told["studies"][1]["hypervolume"]["value"]
    assert call([*words, "--study-name", "of-a", "--study-name", "of-c"], False) == 2
    assert "--study-name: got 'of-c', allowed: of-a, of-b" in capsys.readouterr().err


@pytest.mark.parametrize(("out", "place"), [(".", "."), ("/proc/nope/page.html", "/proc/nope")])
def test_a_page_that_cannot_be_written_is_one_line(tmp_path, capsys, out, place):
    folders = [str(tmp_path / "a"), str(tmp_path / "b")]
    for folder in folders:
        studies.make(folder, 12)
    assert call(["compare", *folders, "-o", out], False) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"--out: got '{place}'" in line
