"""timing.py: the ruler and its intervals. No assertion here is about how long anything takes on this machine."""

import math
import time

import numpy as np
import pytest

from autoslim import timing
from autoslim.metrics import Value
from autoslim.timing import Track, compare, joined, median_interval, settled, typical


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


# -- rotation: blocks of time --------------------------------------------------------------------------------------------


def track(mine, base=2.0):
    mine = np.asarray(mine, dtype=float)
    return Track(mine, np.full((len(mine), 2), base), mine)


def test_a_settled_track_by_hand():
    found = settled([Track(np.array([1.0, 3.0, 2.0]), np.array([[4.0, 5.0], [5.0, 6.0], [6.0, 7.0]]), np.array([1.0, 2.0, 9.0]))])
    assert (found.p50.value, found.baseline_p50.value, found.pairs) == (2.0, 5.5, 3)
    assert found.ratio.value == pytest.approx(2.0 / 5.5)
    assert found.p95 == pytest.approx(np.percentile([1.0, 2.0, 9.0], 95))
    assert (found.p50.low, found.p50.high) == (1.0, 3.0), "three pieces of one burst each"


def test_equal_bursts_have_an_interval_of_no_width():
    found = settled([track([1.0] * 48)])
    assert found.ratio == Value(0.5, 0.5, 0.5)
    assert found.converged


def test_slow_moments_of_the_machine_widen_the_interval_as_much_as_they_should():
    """Noise that stays for 40 bursts at a time: an interval that took bursts for independent would be 6 times too narrow. Over many
    such tracks the interval holds the truth 95 times in 100, or nearly."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        slow = np.repeat(generator.lognormal(0, 0.2, 24), 40)
        found = settled([track(slow * generator.lognormal(0, 0.02, 960))])
        held += found.p50.low <= 1.0 <= found.p50.high
    assert 0.86 <= held / 200 <= 0.99


def test_tracks_join_in_order():
    whole = joined([track([1.0, 2.0]), track([3.0])])
    assert whole.mine.tolist() == [1.0, 2.0, 3.0]
    assert whole.base.shape == (3, 2)


def test_two_speeds_of_the_machine_do_not_move_the_ratio():
    """For a share of the time both files take twice as long. About half of it a median may stand on either side, the file's and the
    baseline's on different ones."""
    generator = np.random.default_rng(1)
    for share in (100, 148, 150, 152, 200):
        factor = np.where(np.arange(600) % 300 < share, 2.0, 1.0)
        mine, base = factor * generator.normal(1.0, 0.01, 600), factor[:, None] * generator.normal(4.0, 0.04, (600, 2))
        assert settled([Track(mine, base, mine)]).ratio.value == pytest.approx(0.25, rel=0.005)


def test_a_trimmed_mean_leaves_out_a_tenth_at_either_end():
    assert typical(np.array([[9.0, 1, 2, 3, 4, 5, 6, 7, 8, 1000], [0.0, 1, 1, 1, 1, 1, 1, 1, 1, 50]])).tolist() == [5.5, 1.0]
    assert typical(np.array([1.0, 3.0])) == 2.0


def test_a_ratio_is_between_those_of_its_rounds():
    """Two speeds at which the file is 0.09 and 0.1 of the baseline: what came of medians of all bursts lay above both."""
    generator = np.random.default_rng(0)
    rounds = []
    for slow in (0, 1, 0, 1, 1, 0):
        speed = 1.9 if slow else 1.25
        trembling = generator.permutation(np.where(np.arange(60) < 24, 1.5, 1.0))[:, None] if not slow else 1.0
        base = speed * trembling * generator.normal(1, 0.01, (60, 2))
        rounds.append(Track(base.mean(1) * (0.1 if slow else 0.09), base, base[:, 0]))
    own = [settled([one]).ratio.value for one in rounds]
    assert min(own) < settled(rounds).ratio.value < max(own)


def test_rounds_by_hand():
    """Ratios 1/4, 1/2, 1/4, 1/2: their logarithms differ by log 2, with a standard deviation of log 2 / sqrt(3); of milliseconds there are medians."""
    found = settled([track([one] * 3, base=4.0) for one in (1.0, 2.0, 1.0, 2.0)])
    far = 3.182446 * math.log(2) / math.sqrt(3) * math.sqrt(1 / 4)  # t of 3 degrees of freedom, from a table
    assert found.ratio.value == pytest.approx(1.5 / 4)
    mean = math.exp(far * math.sqrt(1.06))  # a trimmed mean's variance, of normal noise, in units of a mean's
    assert (found.ratio.low, found.ratio.high) == pytest.approx((1.5 / 4 / mean, 1.5 / 4 * mean))
    assert found.p50.high == pytest.approx(1.5 * math.exp(far * math.sqrt(math.pi / 2)))
    assert (found.baseline_p50.low, found.baseline_p50.high) == pytest.approx((4.0, 4.0))


@pytest.mark.parametrize("rounds", [4, 6, 10])
def test_files_that_differ_from_opening_to_opening_have_intervals_that_hold(rounds):
    """Each opening has a speed of its own (5 %), bursts tremble little: pieces of time alone held the truth in 70 % of cases."""
    generator, held = np.random.default_rng(0), 0
    for _ in range(1000):
        speeds = generator.lognormal(0, 0.05, rounds)
        found = settled([track(speed * generator.lognormal(0, 0.01, 60)) for speed in speeds])
        held += found.ratio.low <= 0.5 <= found.ratio.high
    assert 0.93 <= held / 1000 <= 0.98
