"""The local search around a broken recipe, on a law that can be worked out by hand; and the verdict's words."""

import xml.etree.ElementTree as xml

import pytest

import studies
from autoslim import checking, repairing
from autoslim.budget import Budget, Drop, Limit, feasible
from autoslim.candidate import Done, Failed
from autoslim.checking import Judged, Verdict, judged, overshoot
from autoslim.cli.main import call
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, Step
from autoslim.reporting import gate

LAYERS = ["a", "b"]
SPACE = studies.space_of(LAYERS)


def law(recipe, budget):
    """The outcome of a recipe: kept shares of two layers make the time, lost ones the drop; distillation wins half of it back."""
    keep = [recipe.by("channels").get(name, 32) / 32 for name in LAYERS]
    won = 0.5 if recipe.recovery.get("distill_steps", 0) >= 200 else 1.0
    found = Measurement({"metric": Value(0.9 - won * sum(0.02 * (1 - share) for share in keep)), "latency_ms": Value(5 * sum(keep))})
    untouched = Measurement({"metric": Value(0.9), "latency_ms": Value(10.0)})
    return Done(found, budget.violations(found, untouched, "max"), "m", "s", recipe)


def recipe(**channels):
    return Recipe.of([Step("channels", name, value) for name, value in channels.items()], {"distill_steps": 0})


def search(start, budget, most=20):
    tried = []

    def evaluate(candidate):
        tried.append(candidate)
        return law(candidate, budget)

    found = next(repairing.repair(SPACE, start, law(start, budget).violations, evaluate, most), None)
    return found, tried


def test_more_recovery_is_tried_first_and_is_enough():
    found, tried = search(recipe(a=8, b=8), Budget({}, Drop(0.016, False)))
    assert len(tried) == 1
    assert found[0].recovery["distill_steps"] == repairing.LONG
    assert found[0].steps == recipe(a=8, b=8).steps


def test_milder_choices_follow_where_accuracy_is_lost():
    budget = Budget({}, Drop(0.006, False))
    found, tried = search(recipe(a=8, b=8), budget)
    assert feasible(found[1].violations)
    assert sum(found[0].by("channels").values()) > 16
    assert len({candidate.key for candidate in tried}) == len(tried), "nothing is evaluated twice"


def test_stronger_choices_where_it_is_too_slow():
    found, _ = search(recipe(a=24), Budget({"ms": Limit(6.0, False)}))
    assert feasible(found[1].violations)
    assert sum(found[0].by("channels").get(name, 32) for name in LAYERS) <= 32 * 1.2


def test_what_cannot_be_mended_costs_no_more_than_allowed():
    found, tried = search(recipe(a=8, b=8), Budget({"ms": Limit(0.1, False)}), most=7)
    assert found is None
    assert 0 < len(tried) <= 7


def test_failed_neighbours_are_passed_over_and_nothing_is_tried_twice():
    tried, start = [recipe(a=8)], recipe(a=8)
    found = list(
        repairing.repair(SPACE, start, {"max_drop": 1.0, "ms": 1.0}, lambda candidate: tried.append(candidate) or Failed("error", "no"), 50)
    )
    assert found == []
    keys = [candidate.key for candidate in tried]
    assert len(set(keys)) == len(keys) > 5, "neither the start nor a neighbour that two moves lead to"


def test_a_move_steps_to_the_next_choice_and_stops_at_the_end():
    domains = [domain for domain in SPACE.domains if domain.technique == "channels"]
    assert repairing.moved(recipe(a=16), domains[:1], -1).by("channels") == {"a": 24}
    assert repairing.moved(recipe(a=24), domains[:1], -1).by("channels") == {}
    assert repairing.moved(recipe(a=8), domains, 1).by("channels") == {"a": 8, "b": 24}
    assert repairing.moved(recipe(a=13), domains[:1], -1).by("channels") == {"a": 16}, (
        "a value that the space does not know counts as strongest"
    )


ROW = {
    "latency_ms": {"value": 1.0, "low": 0.9, "high": 1.1},
    "size_bytes": 2_000_000,
    "macs": 10.0,
    "drop": {"value": 0.005, "low": -0.01, "high": 0.02},
    "metric": {"value": 0.9, "low": 0.88, "high": 0.92},
    "latency_ratio": {"value": 0.5, "low": 0.4, "high": 0.6},
    "n": 100,
    "split": "test",
    "sha256": "ab",
}


class Prepared:
    untouched = Measurement({"metric": Value(0.9), "latency_ms": Value(2.0), "size_bytes": Value(4_000_000), "macs": Value(20)})
    metric_direction = "max"


def test_a_latency_is_judged_by_the_upper_end_and_a_drop_by_its_value():
    budget = Budget({"ms": Limit(1.05, False), "mb": Limit(0.5, True)}, Drop(0.01, False))
    found = {limit.name: limit for limit in judged(budget, ROW, Prepared)}
    assert [found[name].holds for name in ("ms", "mb", "max_drop")] == [False, True, True]
    assert overshoot(found["ms"]) > 0 >= overshoot(found["mb"])
    assert found["mb"].bound == 2_000_000


def test_a_share_of_the_time_is_judged_by_the_ratio():
    [found] = judged(Budget({"ms": Limit(0.55, True)}), ROW, Prepared)
    assert (found.value, found.high, found.bound, found.holds, found.share) == (0.5, 0.6, 0.55, False, True)
    assert gate.rows(verdict(limits=(found,)))[0] == {
        "limit": "latency_ratio", "measured": "0.5 of untouched", "known": "0.4 of untouched to 0.6 of untouched", "bound": "0.55 of untouched", "holds": "no",
    }  # fmt: skip


def verdict(**changes):
    limits = (Judged("ms", 1.05, 1.0, 0.9, 1.1, False), Judged("max_drop", 0.01, 0.005, -0.01, 0.02, True))
    return Verdict(
        **{"recipe": recipe(a=8), "limits": limits, "row": ROW, "metric_name": "accuracy <top-1>", "file": "m", "tried": 1, **changes}
    )


def test_junit_counts_one_failure_per_broken_limit():
    suite = xml.fromstring(gate.junit(verdict(), "a & <b>.yaml"))
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    [failure] = suite.iter("failure")
    assert failure.get("message") == "1 ms, limit 1.05 ms"
    failed = xml.fromstring(gate.junit(verdict(limits=(), row={}, reason="no such layer"), "x"))
    assert (failed.get("tests"), failed.get("failures")) == ("1", "1")


def test_markdown_says_whether_it_holds_and_what_was_mended():
    assert gate.markdown(verdict()).startswith("**The recipe does not hold: latency\\_ms 1 ms (limit 1.05 ms).**")
    mended = verdict(limits=(Judged("max_drop", 0.01, 0.005, None, None, True),), repaired=True, tried=4)
    assert "holds after a repair, 4 recipes tried" in gate.markdown(mended)
    assert "a: 8" in gate.markdown(mended)


def test_neighbours_of_a_recipe_without_a_file_are_tried():
    """A layer that the model has no longer: what is left of the recipe comes first, and the search goes on from there."""
    budget, tried = Budget({}, Drop(0.006, False)), []

    def evaluate(candidate):
        tried.append(candidate)
        return Failed("error", "no unit 'gone'") if "gone" in candidate.by("channels") else law(candidate, budget)

    found = next(repairing.repair(SPACE, recipe(a=8, b=8, gone=4), repairing.NO_FILE, evaluate, 20))
    assert tried[0].by("channels") == {"a": 8, "b": 8}
    assert feasible(found[1].violations)
    assert "gone" not in found[0].by("channels")
    rest = repairing.neighbours(SPACE, recipe(gone=4), repairing.NO_FILE)
    assert list(rest) == [], "of a recipe of which nothing is left there is no repair"


class FakeGate:
    """Judges by the law of this file; counts and says as the real one."""

    def __init__(self, budget):
        self.budget, self.count, self.said, self.prepared = budget, 1, [], type("P", (), {"space": SPACE})

    def say(self, text):
        self.said.append(text)

    def evaluate(self, candidate):
        self.count += 1
        return Failed("error", "no unit 'gone'") if "gone" in candidate.by("channels") else law(candidate, self.budget)

    def verdict(self, candidate, outcome, first):
        return Verdict(candidate, repaired=True, tried=self.count)


def test_a_check_says_why_it_repairs_or_does_not():
    start = recipe(a=8, b=8, gone=4)
    gate_ = FakeGate(Budget({}, Drop(0.006, False)))
    mended = checking.repaired(gate_, start, Verdict(start, reason="no unit 'gone'", tried=1), 20)
    assert mended.holds
    assert "no file could be made of the recipe (no unit 'gone')" in gate_.said[0]
    lost = recipe(gone=4)
    alone = FakeGate(Budget({}, Drop(0.006, False)))
    assert not checking.repaired(alone, lost, Verdict(lost, reason="no unit 'gone'", tried=1), 20).holds
    assert "the space knows no neighbour" in alone.said[-1]
    unknown = FakeGate(Budget({}, None))
    limits = (Judged("memory_mb", 1e6, None, None, None, False),)
    assert not checking.repaired(unknown, start, Verdict(start, limits, tried=1), 20).holds
    assert unknown.count == 1
    assert "memory_mb was not measured" in unknown.said[0]


def test_a_limit_without_a_measurement_does_not_hold_and_is_told():
    budget = Budget({"ms": Limit(2.0, False), "memory_mb": Limit(5e6, False)}, None)
    found = {limit.name: limit for limit in judged(budget, ROW, Prepared)}
    assert (found["memory_mb"].value, found["memory_mb"].bound, found["memory_mb"].holds) == (None, 5e6, False)
    [share] = judged(Budget({"memory_mb": Limit(0.5, True)}, None), ROW | {"peak_memory_bytes": 1e6}, Prepared)
    assert (share.bound, share.holds) == (None, False), "half of what nobody measured of the untouched model"
    told = verdict(limits=tuple(found.values()))
    assert not told.holds
    assert gate.sentence(told) == "does not hold: peak_memory_bytes not measured (limit 5 MB)"
    [failure] = xml.fromstring(gate.junit(told, "x")).iter("failure")
    assert failure.get("message") == "not measured, limit 5 MB"


def test_what_xml_refuses_is_taken_out_of_a_reason():
    failed = verdict(limits=(), row={}, reason="\x1b[31mred\x1b[0m <b>\x00\x08 \ufffe end", repaired=False)
    [failure] = xml.fromstring(gate.junit(failed, "a\x1b[1mb.yaml")).iter("failure")
    assert failure.get("message") == "red <b>  end"
    assert "\x1b" not in gate.sentence(failed)


def test_a_verdict_is_told_before_a_file_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipe.yaml").write_text("schema: 1\ntechniques: {}\n")
    monkeypatch.setattr(checking, "check", lambda *_: verdict())
    line = ["check", str(tmp_path / "recipe.yaml"), "--max-drop", "1pp", "--junit"]
    assert call([*line, str(tmp_path / "j.xml")], False) == 3
    assert xml.parse(tmp_path / "j.xml").getroot().get("failures") == "1"
    capsys.readouterr()
    for place in ("/proc/nope/j.xml", str(tmp_path)):
        assert call([*line, place], False) == 2
        told = capsys.readouterr()
        assert told.out == "", "that is seen before any work"
        assert len(told.err.splitlines()) == 1
        assert "--junit: got" in told.err

    def taken(*_):
        """While the check works, a folder takes the file's place."""
        (tmp_path / "k.xml").unlink(missing_ok=True)
        (tmp_path / "k.xml").mkdir()
        return verdict()

    monkeypatch.setattr(checking, "check", taken)
    assert call([*line, str(tmp_path / "k.xml")], False) == 2
    told = capsys.readouterr()
    assert "does not hold: latency_ms 1 ms (limit 1.05 ms)" in told.out
    assert len(told.err.splitlines()) == 1
    assert "--junit: got" in told.err


@pytest.mark.parametrize("words", [("--space", "cnn"), ("--repair-trials", "3")])
def test_what_only_repairs_use_is_refused_without_repair(tmp_path, capsys, words):
    assert call(["check", str(tmp_path / "recipe.yaml"), "--max-drop", "1pp", *words], False) == 2
    assert f"{words[0]}: got '{words[1]}' without --repair" in capsys.readouterr().err
