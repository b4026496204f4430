"""ending.py: when a search stops asking, on loops made by hand; no clock is waited for."""

import time
from types import SimpleNamespace

import pytest

from autoslim import ending, opening, waiting
from autoslim.candidate import Done, Failed
from autoslim.entries import Entries
from autoslim.errors import AutoSlimError
from autoslim.loop import Loop, Stop, Watcher
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import SearchSpace
from autoslim.spec import UNBOUNDED, load_study
from autoslim.study import Entry


def done(ms=1.0, score=0.5):
    return Done(Measurement({"latency_ms": Value(ms)}), {}, "f", "s", Recipe(), {"score": score})


def loop_of(count, *, spent=0.0, ms=1.0, score=0.5, volumes=(), **spec):
    entries = [Entry(0, {}, "untouched", {}, "u", done(ms))] + [Entry(i, {}, "", {}, str(i), done(ms, score)) for i in range(1, count + 1)]
    made = Loop(load_study(None, spec), None, None, None, Watcher(), Stop(), time.monotonic() - spent, Entries(entries))
    made.growth = SimpleNamespace(volumes=list(volumes))
    return made


def test_trials_end_it_with_those_under_way_counted():
    assert not ending.ended(loop_of(8, trials=10))
    made = loop_of(8, trials=10)
    made.running = {9: None, 10: None}
    assert ending.ended(made)
    assert made.stop.reason == "trials"


def test_time_alone_means_as_many_trials_as_fit():
    assert load_study(None, {"time": "1h"}).trials == UNBOUNDED
    assert load_study(None, {"time": "1h", "trials": 7}).trials == 7
    assert load_study(None, {}).trials == 40


def test_the_search_ends_when_the_rest_is_needed_for_verification():
    """Ten candidates of 1 ms, 12 to verify at most: untouched and 10, each 1.5 s, half a second of checks, twice 0.5 s of scoring and two rounds of 0.3 s."""
    need = 8 + 11 * (2.0 + 2 * 0.5 + 2 * 0.3)
    assert ending.reserve(loop_of(10, time="10m")) == pytest.approx(need)
    assert not ending.late(loop_of(10, time="10m", spent=600 - need - 5))
    late = loop_of(10, time="10m", spent=600 - need + 5)
    assert ending.ended(late)
    assert late.stop.reason == "time"
    assert not ending.overdue(late)
    assert ending.overdue(loop_of(10, time="10m", spent=618 - need + 1))
    assert not ending.overdue(loop_of(10, spent=1e6))


def test_slow_files_need_longer_rounds_and_verification_at_most_half_of_the_time():
    """A second for each run of a file and of the untouched one: 12 runs of both a round, two rounds."""
    assert ending.reserve(loop_of(10, time="1h", ms=1000.0)) == pytest.approx(8 + 11 * (2.0 + 2 * 0.5 + 2 * 12 * 2))
    assert ending.reserve(loop_of(10, time="60s", ms=1000.0)) == 30.0


def test_a_hypervolume_that_no_longer_grows_ends_it_and_says_so():
    grown = [0.01 * i for i in range(40)]
    assert not ending.ended(loop_of(5, volumes=grown, trials=500))
    still = loop_of(5, volumes=[0.1] * 10 + [0.5] * 31, trials=500)
    assert ending.ended(still)
    assert "30 evaluations" in still.stop.reason
    assert not ending.ended(loop_of(5, volumes=[0.5] * 39, trials=500)), "no search stops before 40"
    assert not ending.ended(loop_of(5, volumes=[0.1] * 10 + [0.5] * 31, trials=500, patience=0))
    assert not ending.ended(loop_of(5, volumes=[0.0] * 60, trials=500)), "nothing feasible yet"


def test_failures_say_nothing_about_scoring():
    made = loop_of(0, time="10m")
    made.entries.put(Entry(1, {}, "", {}, "x", Failed("crash", "y")))
    assert ending.reserve(made) == pytest.approx(8 + 1 * (2.0 + 2 * 0.3))


@pytest.mark.parametrize(("spent", "enough"), [(250, False), (590, True)])
def test_a_slow_preparation_takes_no_time_from_the_measuring_of_single_choices(spent, enough):
    """Ten minutes, of which the preparation took four: choices are measured. Ten seconds before the end they are not."""
    told = []

    def tables(items, say, is_enough):
        told.append(is_enough())
        raise AutoSlimError("this far and no further")

    made = loop_of(4, time="10m", spent=spent)
    made.study = SimpleNamespace(fact=lambda name: None, renew=lambda: None)
    made.executor = SimpleNamespace(tables=tables)
    assert opening.tables_of(made, SimpleNamespace(space=SearchSpace((), {}))) is None
    assert told == [enough]


# -- what waits while the strategy is asked ---------------------------------------------------------------------------------


def turns(made, count=4):
    queue = waiting.Queue([("uniform-channels-0.75", {}), ("uniform-channels-0.5", {})])
    found = [queue.next(made) for _ in range(count)]
    return ["" if one is None else one[0] for one in found]


def test_rivals_come_before_the_strategy_and_in_turn_with_it_where_time_is_short():
    """Ten candidates of 60 s; two rivals would take 2 of the 60 minutes, or of the 4 that are left."""
    rivals = ["uniform-channels-0.75", "uniform-channels-0.5"]
    for spec in ({}, {"time": "1h"}):
        made = loop_of(10, score=60.0, **spec)
        made.executor = SimpleNamespace(slots=1)
        assert turns(made) == [*rivals, "", ""]
    made = loop_of(10, score=60.0, time="1h", spent=3600 - 240 - ending.reserve(loop_of(10, score=60.0, time="1h")))
    made.executor = SimpleNamespace(slots=1)
    assert turns(made) == [rivals[0], "", rivals[1], ""]
    made.executor.slots = 8
    assert turns(made) == [*rivals, "", ""]
