"""search.py: the strongest corner is measured first where the untouched model is too large, and only where there is one."""

import faults
import pytest

import studies
from autoslim import search as searching
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
