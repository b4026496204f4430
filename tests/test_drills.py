"""drills.py: which files are made and timed before a search, and what a forecast learns from them."""

import dataclasses
import types
from pathlib import Path

import numpy as np
import pytest

from autoslim import drills, effects
from autoslim.budget import Budget, Limit
from autoslim.correction import FEWEST
from autoslim.forecast import Forecast, Tables
from autoslim.space import Domain, SearchSpace


def changed(point, space):
    """Techniques of the decisions that do not stand where the untouched network's do."""
    untouched = space.identity()
    return {domain.technique for domain in space.domains if point[domain.name] != untouched[domain.name]}


def test_files_of_random_points_are_timed_together_and_are_gone_after(evaluator, monkeypatch):
    asked = []

    def tournament(self, paths, base, seconds):
        asked.append((list(paths), base, seconds))
        assert all(path.is_file() for path in paths)
        return real(self, paths, base, 0.05)

    real = drills.Contest.tournament
    monkeypatch.setattr(drills.Contest, "tournament", tournament)
    monkeypatch.setattr(drills, "MANY", 10)
    monkeypatch.setattr(drills, "SECONDS", 1000.0)
    found = drills.timed(evaluator)
    ((paths, base, seconds),) = asked
    assert len(found) == len(paths) == 10
    assert base == evaluator.untouched_file()
    assert seconds == pytest.approx(10 * drills.EACH)
    assert not any(path.exists() for path in paths)
    assert base.is_file()
    assert not list((evaluator.out / "tables").glob("drill*"))
    space = evaluator.prepared.space
    assert all(drill["ratio"] > 0 and space.decode(drill["point"]) is not None for drill in found)
    assert set().union(*(changed(drill["point"], space) for drill in found)) == {"channels", "bits"}


@pytest.mark.parametrize(
    ("change", "many"),
    [
        ({}, 8),
        ({"objectives": ("metric", "size_bytes")}, 0),
        ({"objectives": ("metric", "size_bytes"), "budget": Budget({"ms": Limit(0.5, True)}, None)}, 8),
        ({"away": True}, 0),
        ({"seconds": 0.001}, 0),
    ],
)
def test_where_no_time_is_asked_for_or_none_is_left_nothing_is_made(evaluator, monkeypatch, change, many):
    monkeypatch.setattr(drills, "rotated", lambda _, made: [{"point": point, "ratio": 1.0} for point, _ in made])
    monkeypatch.setattr(drills, "MANY", 8)
    monkeypatch.setattr(drills, "SECONDS", 1000.0)
    monkeypatch.setattr(evaluator, "job", dataclasses.replace(evaluator.job, **change))
    assert len(drills.timed(evaluator)) == many


def test_a_device_has_its_own_clock(evaluator, monkeypatch):
    monkeypatch.setattr(evaluator, "runtime", types.SimpleNamespace(contest=None))
    assert drills.timed(evaluator) == []


def test_a_second_file_that_takes_too_long_is_the_last(evaluator, monkeypatch):
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr(drills.time, "monotonic", lambda: next(clock))
    made = []
    monkeypatch.setattr(drills, "file_of", lambda evaluator, point, number: made.append(number) or Path("none"))
    assert drills.timed(evaluator) == []
    assert made == [0, 1]


def test_what_trains_stays_and_what_cannot_be_made_is_left_out(evaluator, monkeypatch):
    domains = [
        Domain(f"{technique}:a", technique, (0, 1), ((), (("a", 1),))) for technique in ("student", "qat", "channels", "depth", "recovery")
    ]
    space, generator = SearchSpace(tuple(domains), {}), np.random.default_rng(1)
    points = [drills.drawn(space, generator) for _ in range(200)]
    assert {technique for point in points for technique in changed(point, space)} == {"channels", "depth"}
    assert len({tuple(point.values()) for point in points}) == 4
    monkeypatch.setattr(drills, "compressed", lambda *_: 1 / 0)
    assert drills.timed(evaluator) == []
    assert not list((evaluator.out / "tables").glob("drill*"))


WIDTHS = tuple(
    Domain(f"channels:{name}", "channels", (1.0, 0.5, 0.25), ((), ((name, 0.5),), ((name, 0.25),)), ordered=True) for name in "abc"
)


def tables(space, drilled=()):
    """Three layers, each narrowed by a decision of its own."""
    names = tuple("abc")
    shares = {}
    for place, domain in enumerate(WIDTHS):
        table = np.ones((3, 3))
        table[:, place] = [1.0, 0.5, 0.25]
        shares[domain.name] = {"macs": table, "bytes": table, "slow": np.ones_like(table)}
    loss = {domain.name: np.array([0.0, 0.01, 0.1]) for domain in WIDTHS}
    return Tables(names, np.ones(3), np.ones(3), np.array([1.0, 2.0, 3.0]), 0.0, 0.5, loss, shares, stepped=True, drills=tuple(drilled))


def test_a_forecast_has_learnt_from_them_before_there_are_results():
    """A machine whose third layer saves half of what its profile says, and where a millisecond goes by anyway."""
    space = SearchSpace(WIDTHS, {})
    rows = np.array([[a, b, c] for a in range(3) for b in range(3) for c in range(3)])
    share = np.array([1.0, 0.5, 0.25])[rows]
    truth = 1.0 + share @ np.array([1.0, 2.0, 1.5]) + 1.0
    whole = 6.5
    picked = np.random.default_rng(0).permutation(27)[:20]
    drilled = [(tuple(int(i) for i in rows[i]), float(truth[i] / whole)) for i in picked]
    errors = {}
    for name, own in (("without", ()), ("with", drilled)):
        forecast = Forecast(space, tables(space, own))
        forecast.fit(np.zeros((0, 3), dtype=int), [], [], [])
        rest = [i for i in range(27) if i not in picked]
        errors[name] = np.abs(forecast.ms(rows[rest]) / truth[rest] - 1).max()
    assert errors["with"] < 0.03 < 0.1 < errors["without"]
    assert len(drilled) >= FEWEST


def test_they_are_kept_with_the_tables():
    space = SearchSpace(WIDTHS, {})
    known = tables(space, [((0, 1, 2), 0.5)])
    assert Tables.from_dict(known.as_dict()).drills == known.drills
    assert Tables.from_dict({key: value for key, value in known.as_dict().items() if key != "drills"}).drills == ()
    point = {"channels:a": 0.5, "channels:b": 1.0, "channels:c": 0.25}
    base = {
        "macs": dict.fromkeys("abc", 1.0),
        "params": dict.fromkeys("abc", 1.0),
        "times": {"float": dict.fromkeys("abc", 1.0), "integer": {}, "latency": 3.0},
        "drills": [{"point": point, "ratio": 0.4}],
    }
    assert effects.tables(space, base, [], 12.0).drills == (((1, 0, 2), 0.4),)
