"""contest.py: files against the untouched one on a task's inputs, with a runtime and a clock that are not real."""

from pathlib import Path

import pytest
import torch

from autoslim import contest, timing
from autoslim.contest import Contest, mixed
from autoslim.metrics import Value
from autoslim.timing import MIN_PAIRS, Timing

FILE, BASE = Path("file"), Path("base")
SHORT, LONG = torch.zeros(1, 2), torch.zeros(4, 9)


class Clocked:
    """A runtime whose calls move a fake clock by ``costs`` of (file, samples), in milliseconds; an iterator gives each opened
    session its own."""

    def __init__(self, ticks, costs):
        self.ticks, self.costs, self.opened = ticks, costs, []

    def open(self, path, threads):
        self.opened.append((path, threads))
        return Opened(
            self, {size: cost if isinstance(cost, float) else next(cost) for (name, size), cost in self.costs.items() if name == path}
        )


class Opened:
    def __init__(self, runtime, costs):
        self.runtime, self.costs = runtime, costs

    def bind(self, inputs):
        cost = self.costs[len(inputs)]

        def call():
            self.runtime.ticks["now"] += int(cost * 1e6)

        return call


def test_one_input_is_timed_against_the_untouched_file(ticks):
    runtime = Clocked(ticks, {(FILE, 1): 5.0, (BASE, 1): 8.0})
    found = Contest(runtime, 3, [(SHORT, 1.0)]).round(FILE, BASE, 0.5)
    assert (found.p50.value, found.baseline_p50.value, found.ratio.value, found.p95) == pytest.approx((5.0, 8.0, 0.625, 5.0))
    assert found.pairs == MIN_PAIRS
    assert runtime.opened == [(FILE, 3), (BASE, 3)]


def test_several_inputs_count_by_weight(ticks):
    """Three short requests for each long one: 3/4 * 2 + 1/4 * 12 against 3/4 * 4 + 1/4 * 8 milliseconds."""
    runtime = Clocked(ticks, {(FILE, 1): 2.0, (FILE, 4): 12.0, (BASE, 1): 4.0, (BASE, 4): 8.0})
    timed = Contest(runtime, 1, [(SHORT, 0.75), (LONG, 0.25)])
    found = timed.round(FILE, BASE, 0.5)
    assert (found.p50.value, found.baseline_p50.value, found.p95) == pytest.approx((4.5, 5.0, 4.5))
    assert found.ratio.value == pytest.approx(0.9), "of the times, not the mean of the ratios 0.5 and 1.5, which is 0.75"
    assert found.pairs == 2 * MIN_PAIRS
    assert len(runtime.opened) == 2, "one session of each file for all inputs"
    values = timed.values(found)
    assert values["throughput"].value == pytest.approx(1000 * (0.75 * 1 + 0.25 * 4) / 4.5), "samples of a mean request in its time"
    assert (values["latency_ms"], values["latency_ratio"]) == (found.p50, found.ratio)


def test_the_time_is_shared_out_by_weight(ticks, monkeypatch):
    told = []
    monkeypatch.setattr(contest, "rotate", lambda calls, base, seconds: told.append(seconds) or [None])
    runtime = Clocked(ticks, {(FILE, 1): 1.0, (FILE, 4): 1.0, (BASE, 1): 1.0, (BASE, 4): 1.0})
    Contest(runtime, 1, [(SHORT, 0.75), (LONG, 0.25)]).tournament([FILE], BASE, 2.0)
    assert told == pytest.approx([1.5, 0.5])


ROUND = Timing(Value(0.5, 0.4, 0.7), Value(1.0, 0.9, 1.2), 2.0, Value(2.0, 1.8, 2.2), 16, True)
OTHER = Timing(Value(2.0, 1.9, 2.2), Value(8.0, 7.0, 9.0), 10.0, Value(4.0, 3.9, 4.1), 20, False)


def test_intervals_of_several_inputs_by_hand():
    found = mixed([ROUND, OTHER], [0.6, 0.4])
    assert vars(found.p50) == pytest.approx({"value": 3.8, "low": 0.6 * 0.9 + 0.4 * 7.0, "high": 0.6 * 1.2 + 0.4 * 9.0})
    assert vars(found.baseline_p50) == pytest.approx({"value": 2.8, "low": 0.6 * 1.8 + 0.4 * 3.9, "high": 0.6 * 2.2 + 0.4 * 4.1})
    # each ratio by its share of the untouched model's time: 0.6 * 2 = 1.2 of 2.8, and 0.4 * 4 = 1.6 of 2.8
    assert vars(found.ratio) == pytest.approx(
        {"value": 3.8 / 2.8, "low": (1.2 * 0.4 + 1.6 * 1.9) / 2.8, "high": (1.2 * 0.7 + 1.6 * 2.2) / 2.8}
    )
    assert (found.p95, found.pairs, found.converged) == (pytest.approx(0.6 * 2 + 0.4 * 10), 36, False)
    assert mixed([ROUND], [1.0]) == ROUND


def test_throughput_is_worst_where_the_latency_is(ticks):
    values = Contest(Clocked(ticks, {}), 1, [(LONG, 1.0)]).values(ROUND)
    assert vars(values["throughput"]) == pytest.approx({"value": 4000.0, "low": 4000 / 1.2, "high": 4000 / 0.9})


def test_rounds_open_anew_and_settle_as_one(ticks):
    costs = [2.0, 2.2, 1.8, 2.1, 1.9]
    runtime = Clocked(ticks, {(FILE, 1): iter(costs), (BASE, 1): 2.0})
    timed = Contest(runtime, 1, [(SHORT, 1.0)])
    found = timed.settle([timed.tournament([FILE], BASE, 0.1)[0] for _ in costs])
    assert runtime.opened == [(FILE, 1), (BASE, 1)] * 5
    assert (found.p50.value, found.baseline_p50.value) == pytest.approx((2.0, 2.0))
    assert found.ratio.value == pytest.approx(1.0, rel=0.01), "a mean: slow rounds have fewer bursts"
    assert 0.85 < found.ratio.low < 0.92
    assert 1.08 < found.ratio.high < 1.17
    assert not found.converged


def test_rounds_of_several_inputs_are_pooled_by_input(ticks):
    runtime = Clocked(ticks, {(FILE, 1): 2.0, (FILE, 4): 12.0, (BASE, 1): 4.0, (BASE, 4): 8.0})
    timed = Contest(runtime, 1, [(SHORT, 0.75), (LONG, 0.25)])
    found = timed.settle([timed.tournament([FILE], BASE, 0.5)[0] for _ in range(2)])
    assert (found.p50.value, found.baseline_p50.value, found.ratio.value) == pytest.approx((4.5, 5.0, 0.9))


def test_a_tournament_times_every_file_between_two_runs_of_the_untouched_one(ticks):
    """Files of 2 and 6 ms against one of 4; the baseline stands around each, so that a drift would cancel."""
    other = Path("other")
    runtime = Clocked(ticks, {(FILE, 1): 2.0, (other, 1): 6.0, (BASE, 1): 4.0})
    timed = Contest(runtime, 1, [(SHORT, 1.0)])
    first, second = (timed.settle([tracks]) for tracks in timed.tournament([FILE, other], BASE, 0.5))
    assert (first.ratio.value, second.ratio.value) == pytest.approx((0.5, 1.5))
    assert (first.p50.value, second.p50.value, first.baseline_p50.value) == pytest.approx((2.0, 6.0, 4.0))
    assert first.pairs == second.pairs >= MIN_PAIRS
    assert [name for name, _ in runtime.opened] == [FILE, other, BASE]


def test_a_slow_drift_cancels_in_a_tournament(ticks):
    def drifting(base):
        def call():
            ticks["now"] += int(base * (1 + ticks["now"] / 4e9))

        return call

    found = timing.rotate([drifting(2e6), drifting(8e6)], drifting(4e6), seconds=2.0)
    assert [timing.settled([one]).ratio.value for one in found] == pytest.approx([0.5, 2.0], rel=0.01)
