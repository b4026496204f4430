"""progress.py and loop.py: what a run says about itself, with a clock that the test winds."""

import time
from types import SimpleNamespace

import numpy as np
import pytest

import studies
from autoslim import ending, progress
from autoslim import loop as room
from autoslim.candidate import Done
from autoslim.cli import _live
from autoslim.entries import Entries
from autoslim.errors import AutoSlimError
from autoslim.executors import _bench, _process, ray_tune
from autoslim.executors._hands import Reply
from autoslim.executors._process import Scales
from autoslim.loop import Loop, Stop, Watcher
from autoslim.recipe import Recipe, Step
from autoslim.spec import load_study
from autoslim.study import Entry


class Listener(Watcher):
    def __init__(self):
        self.told, self.phases = [], []

    def phase(self, name):
        self.phases.append(name)

    def trial(self, progress):
        self.told.append(progress)


class Prepared:
    untouched = studies.measured(studies.BASE_METRIC, studies.BASE_MS, studies.BASE_BYTES, studies.BASE_MACS)
    metric_direction = "max"


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def entry(number):
    recipe = Recipe.of([Step("channels", f"layer{number}", 8)])
    return Entry(number, {}, "", {}, recipe.key, Done(Prepared.untouched, {}, "m", "s", recipe, {}))


def run(out, clock, known):
    spec = load_study(None, {"trials": 40})
    return Loop(spec, out, None, None, Listener(), Stop(), clock[0], Entries([entry(number) for number in range(known)]))


@pytest.mark.parametrize("known", [0, 20])
def test_the_time_left_is_told_from_this_runs_evaluations(tmp_path, clock, known):
    """Ten seconds an evaluation; what an earlier run evaluated took none of this run's time."""
    loop = run(tmp_path, clock, known)
    progress.begin_growth(loop, Prepared)
    loop.enter("preparation")
    clock[0] += 300.0
    loop.enter("search")
    for number in range(known, known + 4):
        clock[0] += 10.0
        loop.entries.put(entry(number))
        progress.report_progress(loop, Prepared, number)
    assert [told.eta for told in loop.watcher.told[:2]] == [None, None]
    assert loop.watcher.told[-1].eta == pytest.approx(10.0 * (40 - known - 4) + ending.reserve(loop)), "and then the verification"


def test_files_far_from_the_front_go_in_turns(tmp_path, clock):
    """Of four dominated candidates, each costlier than the one before, the last goes where three files are kept; nothing goes before a
    turn is over."""
    loop = run(tmp_path, clock, 0)
    loop.spec = load_study(None, {"verify": 1})
    for number in range(4):
        recipe = Recipe.of([Step("channels", f"layer{number}", 8)])
        found = studies.measured(0.9, 5.0 + number, 2e6 + number, 1e6)
        loop.entries.put(Entry(number, {}, "", {}, recipe.key, Done(found, {}, "m", "s", recipe, {})))
        (tmp_path / "candidates" / recipe.key).mkdir(parents=True)
    for turn in range(1, progress.TURN + 1):
        progress.prune_files(loop, Prepared)
        there = {folder.name for folder in (tmp_path / "candidates").iterdir()}
        assert there == {loop.entries.of(number).key for number in range(3 if turn == progress.TURN else 4)}


def test_phases_are_timed_one_after_the_other(tmp_path, clock):
    loop = run(tmp_path, clock, 0)
    for name, seconds in (("preparation", 3.0), ("tables", 5.0), ("search", 7.0), ("verification", 2.0)):
        loop.enter(name)
        clock[0] += seconds
    loop.enter("report")
    assert loop.phases == pytest.approx({"preparation": 3.0, "tables": 5.0, "search": 7.0, "verification": 2.0})
    assert loop.watcher.phases == ["preparation", "tables", "search", "verification", "report"]
    assert room.time is time


def test_scales_see_memory_whenever_it_is_taken():
    """300 MB for a moment in which nobody asks for outcomes."""
    with Scales(0.02) as scales:
        time.sleep(0.1)
        before = scales.peak_bytes
        held = np.ones(300_000_000, dtype=np.uint8)
        time.sleep(0.3)
        del held
    assert scales.peak_bytes - before > 250e6


def test_whoever_waits_for_a_worker_gives_signs_of_life(tmp_path, monkeypatch):
    """As a lease wants them; and there is no limit to what a worker takes, unless one is told."""
    monkeypatch.setattr(_process, "BEAT", 0.05)
    worker, beats = _process.Worker(tmp_path / "log"), []
    worker.beat = lambda: beats.append(None)
    try:
        with pytest.raises(AutoSlimError, match="the trace is in"):
            worker.ask("job", "no job")
        assert beats
        with pytest.raises(AutoSlimError, match="no answer for 0.2 s"):
            worker.answer(0.2)
    finally:
        worker.kill()


class Slow:
    """In the place of Ray: an answer that is there at the third look."""

    def __init__(self):
        self.looks = 0
        self.ask = self.folder = SimpleNamespace(remote=lambda *told: told)

    def wait(self, several, timeout):
        self.looks += 1
        return (several, []) if self.looks == 3 else ([], several)

    def get(self, reference):
        return "/there" if not reference else ("ok", reference[0])


def test_whoever_waits_for_a_bench_gives_signs_of_life(tmp_path):
    slow, beats = Slow(), []
    bench = _bench.Remote.__new__(_bench.Remote)
    vars(bench).update(_ray=slow, _actor=slow, _bench="bench:a", _out=tmp_path, _folder=None, _sent={}, _job=None)
    bench.beat = lambda: beats.append(slow.looks)
    assert bench.ask("clock", {"files": []}) == "clock"
    assert beats == [1, 2]


def test_whoever_waits_for_the_first_times_of_a_cluster_gives_signs_of_life(monkeypatch):
    answers, beats = [[], [], [(7, Reply("ok", "times"))]], []
    member = ray_tune.Member.__new__(ray_tune.Member)
    monkeypatch.setattr(member, "_put", lambda *told, **bench: 7, raising=False)
    monkeypatch.setattr(member, "_ends", lambda seconds: answers.pop(0), raising=False)
    member.beat = lambda: beats.append(len(answers))
    assert member._call("base", None).value == "times"
    assert beats == [3, 2, 1]


def test_a_quiet_run_tells_limits_and_faults_and_no_progress(capsys):
    said = ["--budget-ms: 1 ms cannot be met", "the checks of a failed: b", "verification of a failed", "no rival uniform-int8: error: c"]
    kept = _live.Silent()
    for text in [
        "verified 1 of 3",
        "timed, round 2 of 5",
        "checking the recommended file",
        "rival uniform-int8, no point of this space: 1",
        *said,
    ]:
        kept.message(text)
    assert capsys.readouterr().err.splitlines() == [f"autoslim: {text}" for text in said]
