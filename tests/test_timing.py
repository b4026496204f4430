"""timing.py: the intervals and the locks. No assertion here is about how long anything takes on this machine."""

import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from autoslim import timing
from autoslim.metrics import Value
from autoslim.timing import Machine, Timing, between, compare, median_interval, middle_mean, pooled, student


@pytest.mark.parametrize("n", [48, 49, 64, 100, 333, 1000])
def test_median_interval_covers_by_the_exact_binomial(n):
    """With ranks l < h the interval misses the median m when at most l, or more than h, of n draws lie below m."""
    got = median_interval(list(range(n)))
    low, high = int(got.low), int(got.high)
    covered = sum(math.comb(n, k) for k in range(low + 1, high + 1)) / 2**n
    assert 0.94 <= covered <= 0.985
    assert low + high == pytest.approx(n, abs=1), "as many below as above"


def test_median_interval_covers_in_simulation_whatever_the_noise():
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        got = median_interval(list(generator.exponential(1.0, 60)))
        assert got.low <= got.value <= got.high
        hits += got.low <= math.log(2) <= got.high
    assert 0.935 <= hits / 2000 <= 0.98  # 2000 draws know a share to 0.5 %


def test_median_interval_does_not_mind_order():
    samples = [5.0, 1.0, 4.0, 2.0, 3.0] * 20
    assert median_interval(samples) == median_interval(sorted(samples))
    assert median_interval(samples).value == 3.0


def costing(state, nanoseconds, spread=0.0, seed=0):
    """A call that takes ``nanoseconds``, more or less by ``spread``, on the fake clock."""
    generator = np.random.default_rng(seed)

    def call():
        state["now"] += int(nanoseconds * (1 + spread * generator.standard_normal()))

    return call


def test_a_call_against_itself_has_a_ratio_of_one(ticks):
    call = costing(ticks, 2e6, spread=0.02)
    got = compare(call, call, seconds=1.0)
    assert got.ratio.low <= 1.0 <= got.ratio.high
    assert got.ratio.value == pytest.approx(1.0, abs=0.02)
    assert got.converged
    assert got.pairs >= timing.MIN_PAIRS


def test_a_known_ratio_is_found_and_milliseconds_are_milliseconds(ticks):
    got = compare(costing(ticks, 5e6, 0.05, 1), costing(ticks, 10e6, 0.05, 2), seconds=2.0)
    assert got.ratio.low <= 0.5 <= got.ratio.high
    assert got.p50.value == pytest.approx(5.0, rel=0.05)
    assert got.baseline_p50.value == pytest.approx(10.0, rel=0.05)
    assert got.p50.low <= got.p50.value <= got.p50.high <= got.p95


def test_a_slow_drift_of_the_machine_cancels_in_the_ratio(ticks):
    """Both calls get slower by half during the comparison, as on a machine that gets hot."""

    def drifting(base):
        def call():
            ticks["now"] += int(base * (1 + ticks["now"] / 4e9))

        return call

    got = compare(drifting(4e6), drifting(8e6), seconds=2.0, width=1e-9)
    assert got.ratio.value == pytest.approx(0.5, rel=0.01)


def test_noise_without_end_stops_at_the_time_and_says_so(ticks):
    got = compare(costing(ticks, 5e6, 0.5, 1), costing(ticks, 5e6, 0.5, 2), seconds=1.0, width=1e-6)
    assert not got.converged
    assert ticks["now"] < 3e9


def test_order_alternates(ticks):
    seen = []

    def note(letter):
        def call():
            seen.append(letter)
            ticks["now"] += 4_000_000  # so slow that a burst is one run

        return call

    compare(note("a"), note("b"), seconds=0.01)
    pairs = "".join(seen[-2 * timing.MIN_PAIRS :])
    assert pairs == "abba" * (timing.MIN_PAIRS // 2)


def test_a_burst_leaves_its_first_runs_out(ticks):
    """The first runs after the other file's turn are slow; a burst's median does not see them."""
    runs = {"n": 0}

    def call():
        runs["n"] += 1
        ticks["now"] += 200_000

    burst = timing.Burst(call)
    before = runs["n"]

    def slow_start():
        runs["n"] += 1
        ticks["now"] += 5_000_000 if runs["n"] - before <= timing.SKIPPED else 200_000

    burst._call = slow_start
    assert burst.run() == pytest.approx(0.2)
    assert max(burst.times) == pytest.approx(0.2)
    assert runs["n"] - before == timing.SKIPPED + len(burst.times)


def test_a_call_against_itself_with_real_sleeps():
    got = compare(lambda: time.sleep(0.001), lambda: time.sleep(0.001), seconds=1.0)
    assert got.ratio.low * 0.9 <= 1.0 <= got.ratio.high * 1.1


# -- several rounds as one ---------------------------------------------------------------------------------------------------


def test_the_middle_mean_leaves_a_quarter_out_at_each_end():
    assert middle_mean([100.0, 1.0, 2.0, 3.0, -100.0, 4.0, 5.0, 6.0]) == 3.5  # of eight the two at each end
    assert middle_mean([9.0, 1.0, 2.0, 4.0]) == 3.0
    assert middle_mean([9.0, 1.0, 2.0]) == 4.0, "three have no quarter"
    assert middle_mean([7.0]) == 7.0


def test_between_takes_the_wider_of_own_doubt_and_spread():
    doubtful = between([Value(1.0, 0.5, 1.5)] * 4)
    assert (doubtful.low, doubtful.high) == pytest.approx((0.75, 1.25))  # 0.5 / sqrt(4)
    assert between([Value(2.0, 1.9, 2.1)]) == Value(2.0, pytest.approx(1.9), pytest.approx(2.1))


def test_between_is_not_below_all_that_was_seen():
    """Two rounds have a Student's t of 12.7: the symmetric interval would reach below zero."""
    found = between([Value(1.0, 0.9, 1.1), Value(2.0, 1.9, 2.1)])
    half = 12.706 * math.sqrt(0.5) / math.sqrt(2)
    assert (found.value, found.low, found.high) == pytest.approx((1.5, 0.9, 1.5 + half))


@pytest.mark.parametrize(("rounds", "tabled"), [(2, 12.706), (5, 2.776), (8, 2.365), (11, 2.228), (13, 2.179), (21, 2.086), (61, 2.000)])
def test_quantiles_are_those_of_the_printed_tables(rounds, tabled):
    assert student(rounds) == pytest.approx(tabled, abs=0.004)


def measured(ratio, p50, p95, base, pairs):
    """A round whose values are known to -+ 1 %."""
    return Timing(*(Value(v, 0.99 * v, 1.01 * v) for v in (ratio, p50)), p95, Value(base, 0.99 * base, 1.01 * base), pairs, False)


def test_pooled_rounds_by_hand():
    found = pooled([measured(0.5, 1.0, 3.0, 2.0, 16), measured(0.6, 1.2, 5.0, 2.0, 20), measured(0.7, 1.4, 4.0, 2.0, 24)])
    # three values 0.1 apart: standard deviation 0.1, standard error 0.1 / sqrt(3), Student's t with 2 degrees of freedom 4.303
    assert (found.ratio.value, found.ratio.high) == pytest.approx((0.6, 0.6 + 4.303 * 0.1 / math.sqrt(3)))
    assert found.ratio.low == pytest.approx(0.495), "the lowest end of any round"
    assert (found.p50.value, found.p50.high) == pytest.approx((1.2, 1.2 + 4.303 * 0.2 / math.sqrt(3)))
    assert (found.baseline_p50.value, found.baseline_p50.high) == pytest.approx((2.0, 2.0 + 0.02 / math.sqrt(3)))  # no spread
    assert (found.p95, found.pairs, found.converged) == (4.0, 60, False)


def test_pooled_rounds_are_converged_by_their_common_interval():
    wide = [measured(0.5, 1.0, 1.0, 2.0, 16)] * 4  # each 2 % wide, together 1 %
    assert pooled(wide).converged
    assert pooled(wide, width=0.009).converged is False


# -- locks ---------------------------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from autoslim.timing import Machine
machine = Machine(Path(sys.argv[1]))
with getattr(machine, sys.argv[2])():
    print("in", flush=True)
    end = time.monotonic() + 20
    while time.monotonic() < end and not Path(sys.argv[1], "stop").exists():
        time.sleep(0.005)
        if sys.argv[3] == "pauses":
            machine.pause()
    Path(sys.argv[1], "out").write_text("out")
"""


@contextmanager
def holder(folder, what, pauses=""):
    """Another process that holds ``what`` until there is a file called stop."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), what, pauses], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


ASKER = """
import sys
from pathlib import Path
from autoslim.timing import Machine
with getattr(Machine(Path(sys.argv[1])), sys.argv[2])():
    print("after" if Path(sys.argv[1], "out").exists() else "during")
"""


def ask(folder, what):
    """Another process that wants ``what`` and says whether it came in after the holder was out."""
    return subprocess.Popen([sys.executable, "-c", ASKER, str(folder), what], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("held", "wanted"), [("working", "alone"), ("alone", "working"), ("alone", "alone")])
def test_a_timing_excludes_work_and_other_timings(tmp_path, held, wanted):
    with holder(tmp_path, held):
        asker = ask(tmp_path, wanted)
        with pytest.raises(subprocess.TimeoutExpired):
            asker.wait(1.0)
        (tmp_path / "stop").touch()
        assert asker.communicate(timeout=20)[0] == "after\n"


def test_work_goes_on_together(tmp_path):
    with holder(tmp_path, "working"), Machine(tmp_path).working():
        assert not (tmp_path / "out").exists()


def test_a_worker_that_pauses_lets_a_timing_pass_and_goes_on(tmp_path):
    with holder(tmp_path, "working", "pauses") as worker:
        with Machine(tmp_path).alone():
            assert not (tmp_path / "out").exists()
            (tmp_path / "stop").touch()
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(0.3)  # it may not go on, nor end, before the timing is over
        assert worker.wait(20) == 0


@pytest.mark.parametrize("held", ["working", "alone"])
def test_locks_are_free_after_kill_9(tmp_path, held):
    with holder(tmp_path, held) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with Machine(tmp_path).alone():
            assert not (tmp_path / "out").exists()


def test_alone_within_work_keeps_the_work_and_the_core_mask(tmp_path):
    machine = Machine(tmp_path)
    before = os.sched_getaffinity(0)
    with machine.working():
        with machine.alone():
            with timing.pinned():
                assert len(os.sched_getaffinity(0)) == 1
            assert os.sched_getaffinity(0) == before
        asker = ask(tmp_path, "alone")
        with pytest.raises(subprocess.TimeoutExpired):
            asker.wait(0.5)
    assert asker.communicate(timeout=20)[0] == "during\n"
    assert os.sched_getaffinity(0) == before


def test_pause_without_work_does_nothing(tmp_path):
    machine = Machine(tmp_path)
    with holder(tmp_path, "alone"):
        machine.pause()
        assert not (tmp_path / "out").exists()
