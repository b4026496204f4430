"""search.py: the strongest corner is measured first where the untouched model is too large, and only where there is one."""

from dataclasses import replace

import faults
import pytest

import studies
from autoslim import search as searching
from autoslim.metrics import Value
from autoslim.space import Domain, SearchSpace


class Lawful(faults.Alone):
    """An executor in which every step takes a tenth of the work."""

    def outcomes(self, seconds):
        for candidate, outcome in super().outcomes(seconds):
            outcome.violations["macs"] = 0.9 ** len(candidate.recipe.steps) / 0.9 - 1
            yield candidate, outcome


def space_of(technique):
    """Three layers with one decision each."""
    values = {"sparsity": (0.0, 0.5), "channels": (1.0, 0.5)}[technique]
    return SearchSpace(tuple(Domain(f"{technique}:{name}", technique, values, ((), ((name, 0.5),))) for name in "abc"), {})


def searched(monkeypatch, out, technique, seconds=0.0, **spec):
    """Labels of the trials that were evaluated, in order, under a limit that the untouched model breaks."""
    monkeypatch.setattr(studies, "law", lambda point, layers: (0.9, 9.0, 1e6, 4e7))
    entries = faults.search(out, Lawful(out, seconds), 5, space=space_of(technique), budget={"macs": "90%"}, **spec)
    return [entry.label for entry in entries if entry.cached_from is None]


def test_the_corner_comes_first_where_the_untouched_model_breaks_a_limit(monkeypatch, tmp_path):
    assert searched(monkeypatch, tmp_path, "channels")[:2] == ["untouched", "corner"]


def test_a_space_whose_corner_is_the_untouched_model_is_searched_all_the_same(monkeypatch, tmp_path):
    """Zeros alone bound nothing: no choice of channels, blocks or bits makes a strongest point."""
    assert searched(monkeypatch, tmp_path, "sparsity") == ["untouched", "", "", "", ""]


def test_a_corner_that_uses_up_the_time_is_the_end(monkeypatch, tmp_path):
    """Half a second of one is kept for verification; nothing is prepared for a strategy that will not be asked."""
    monkeypatch.setattr(searching, "strategy_of", lambda *_: pytest.fail("the time is over"))
    assert searched(monkeypatch, tmp_path, "channels", seconds=0.8, time="1s") == ["untouched", "corner"]


def students(values=("wide", "narrow"), bits=(32, 8, "w4")):
    """Students and bits: bits of four save most bytes and no time."""
    return SearchSpace(
        (
            Domain("student:width", "student", values, ((), (("", {"width": 0.5}),))),
            Domain("bits:all", "bits", bits, ((), *((("a", value),) for value in bits[1:]))),
            Domain("recovery:distill_steps", "recovery", (20, 500), ((), ()), True),
        ),
        {},
    )


class Slow(faults.Alone):
    """An executor in which students of eight bits alone keep the limit."""

    def outcomes(self, seconds):
        for candidate, outcome in super().outcomes(seconds):
            kept = {step.technique: step.value for step in candidate.recipe.steps}
            outcome.violations["macs"] = -0.1 if "student" in kept and kept.get("bits") == 8 else 0.5
            yield candidate, replace(outcome, measurement=cheap(outcome.measurement, outcome.violations["macs"] < 0))


def cheap(measurement, kept):
    return replace(measurement, values={**measurement.values, "macs": Value(3.6e7 / 2 if kept else 4e7)})


def test_a_limit_that_only_a_student_of_other_bits_meets_is_not_called_out_of_reach(monkeypatch, tmp_path):
    """The last choices of all decisions break the limit; the same with eight bits keeps it, and the search goes on."""
    monkeypatch.setattr(studies, "law", lambda point, layers: (0.9, 9.0, 1e6, 4e7))
    out = tmp_path / "out"
    entries = faults.search(out, Slow(out, 0.0), 8, space=students(), budget={"macs": "60%"})
    labels = [entry.label for entry in entries if entry.cached_from is None]
    assert labels[:3] == ["untouched", "corner", "corner"]
    assert len(labels) > 3
    assert entries[1].point == {"student:width": "narrow", "bits:all": "w4", "recovery:distill_steps": 20}
    assert entries[2].point["bits:all"] == 8


def test_a_limit_that_no_corner_meets_ends_the_search(monkeypatch, tmp_path):
    monkeypatch.setattr(studies, "law", lambda point, layers: (0.9, 9.0, 1e6, 4e7))
    out = tmp_path / "out"
    entries = faults.search(out, Lawful(out, 0.0), 8, space=students(bits=(32, 8)), budget={"macs": "10%"})
    labels = [entry.label for entry in entries if entry.cached_from is None]
    assert labels == ["untouched", "corner", "corner"]
