"""The one ruler: how long a call takes, always against another call timed in turn, and alone on the machine.

A pair is one short burst of each; the order alternates (A B, B A), because a fixed order favours one side (measured: 1.4 %).
Pairs are added until the 95 % interval of the median ratio is narrow enough or the time is used up. Single runs in turn
were tried first: for files of a tenth of a millisecond on two threads they disagreed by up to 46 % from one process to the next,
bursts by up to 20 %, because a thread pool that was asleep takes as long to wake as such a file takes to run.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import scipy.special

from autoslim import host
from autoslim.metrics import Value

BLOCK = 4
MIN_PAIRS, MIN_TURNS = 16, 4
BURST_MS, MOST_RUNS, SKIPPED = 3.0, 12, 2
#: pieces of time and draws of the block bootstrap
BLOCKS, DRAWS = 12, 400
#: share of the bursts that a trimmed mean leaves out at either end, and its variance in units of a mean's, of normal noise (Andrews et al. 1972)
TRIMMED, OF_TRIMMED = 0.1, 1.06
#: rounds from which on their own spread is the interval
FEWEST_ROUNDS = 4


@dataclass(frozen=True)
class Timing:
    """Result of one comparison of a candidate with the baseline; times in milliseconds, ``p50`` the median of the bursts'
    medians, ``p95`` of all counted runs.

    ``ratio`` is candidate over baseline, of the trimmed means of their bursts (see ``settled``); all intervals are 95 %.
    ``converged`` says whether the ratio's interval reached the asked width before time ran out.
    """

    ratio: Value
    p50: Value
    p95: float
    baseline_p50: Value
    pairs: int
    converged: bool


@dataclass(frozen=True)
class Track:
    """What rotation found of one candidate, in the order of time; milliseconds. ``mine`` (n,) are its bursts, ``base`` (n, 2) the baseline's
    before and after each, ``runs`` all of its counted runs."""

    mine: np.ndarray
    base: np.ndarray
    runs: np.ndarray


def joined(tracks: Sequence[Track]) -> Track:
    """Several rotations of the same two files as one."""
    return Track(*(np.concatenate([getattr(track, name) for track in tracks]) for name in ("mine", "base", "runs")))


def settled(rounds: Sequence[Track], width: float = 0.03) -> Timing:
    """The Timing of a file's rounds: its ratio is the trimmed mean of its bursts over that of the baseline's.

    Shared cores have two speeds (one file took 1.25 or 1.9 ms, for seconds on end). Where either holds about half of the time a median lies at
    one of the two, the file's and the baseline's not always at the same: of 24 rotations of 12 files the ratio of medians was 3 to 7 %
    above that of all time spent, and above what each single rotation said. Two halves of six rotations differed by 4.5 % in ratios of medians,
    by 2.3 % in medians of the pairs' ratios, by 2.1 % in ratios of trimmed means (standard deviations). Intervals come from whole rounds where there
    are FEWEST_ROUNDS, since files opened anew, and minutes apart, differ by more than bursts of one round; else from pieces of time.
    """
    track = joined(rounds)
    own, other = float(np.median(track.mine)), float(np.median(track.base))
    spread = by_rounds if len(rounds) >= FEWEST_ROUNDS else by_pieces
    ratio, p50, base = spread(rounds, (float(typical(track.mine) / typical(track.base.ravel())), own, other))
    narrow = (ratio.high - ratio.low) <= width * ratio.value
    return Timing(ratio, p50, float(np.percentile(track.runs, 95)), base, len(track.mine), bool(narrow))


def typical(values: np.ndarray) -> np.ndarray:
    """The trimmed mean along the last axis: of what is left without the lowest and the highest tenth (Tukey 1962)."""
    ordered = np.sort(values, axis=-1)
    cut = int(TRIMMED * ordered.shape[-1])
    return ordered[..., cut : ordered.shape[-1] - cut].mean(-1)


def by_rounds(rounds: Sequence[Track], found: Sequence[float]) -> list[Value]:
    """``found`` (ratio, milliseconds of the file, of the baseline) with 95 % t-intervals from the rounds' own logarithms of them. Milliseconds are
    medians, whose standard error is sqrt(pi / 2) times that of a mean (Kenney and Keeping 1962, of normal noise)."""
    logs = np.log([[typical(one.mine) / typical(one.base.ravel()), np.median(one.mine), np.median(one.base)] for one in rounds])
    errors = np.sqrt(np.array([OF_TRIMMED, np.pi / 2, np.pi / 2]) / len(rounds)) * logs.std(0, ddof=1)
    far = np.exp(scipy.special.stdtrit(len(rounds) - 1, 0.975) * errors)
    return [Value(value, float(value / by), float(value * by)) for value, by in zip(found, far, strict=True)]


def by_pieces(rounds: Sequence[Track], found: Sequence[float]) -> list[Value]:
    """As by_rounds, of few rounds. A shared machine is slow for seconds on end, so neighbouring bursts err alike; the track is cut into
    BLOCKS pieces of time, and pieces are drawn with replacement (Kuensch 1989, block bootstrap; 12 pieces held 93-99 %)."""
    track = joined(rounds)
    pieces = min(BLOCKS, len(track.mine))
    long = len(track.mine) // pieces
    drawn = np.random.default_rng(0).integers(0, pieces, (DRAWS, pieces))

    def resampled(values: np.ndarray) -> np.ndarray:
        return values[: pieces * long].reshape(pieces, -1)[drawn].reshape(DRAWS, -1)

    mine, base = resampled(track.mine), resampled(track.base)
    draws = (typical(mine) / typical(base), np.median(mine, axis=1), np.median(base, axis=1))
    return [within(value, drawn) for value, drawn in zip(found, draws, strict=True)]


def within(value: float, draws: np.ndarray) -> Value:
    """A value with the middle 95 % of its bootstrap draws, widened to hold the value itself."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return Value(value, float(min(low, value)), float(max(high, value)))


def compare(candidate: Callable[[], object], baseline: Callable[[], object], *, width: float = 0.03, seconds: float = 3.0) -> Timing:
    """Time two blocking calls in turn. ``width`` is the wished full width of the ratio's interval, relative to the ratio."""
    with pinned():
        return _compare(candidate, baseline, width, seconds)


def _compare(candidate: Callable[[], object], baseline: Callable[[], object], width: float, seconds: float) -> Timing:
    mine, base = Burst(candidate), Burst(baseline)
    pairs: list[tuple[float, float]] = []
    stop = time.perf_counter() + seconds
    flip = False
    while True:
        for _ in range(BLOCK):
            first, second = (base, mine) if flip else (mine, base)
            a, b = first.run(), second.run()
            pairs.append((b, a) if flip else (a, b))
            flip = not flip
        ratio = median_interval([c / b for c, b in pairs])
        narrow = (ratio.high - ratio.low) <= width * ratio.value
        if len(pairs) >= MIN_PAIRS and (narrow or time.perf_counter() > stop):
            break
    p50, base_p50 = median_interval([c for c, _ in pairs]), median_interval([b for _, b in pairs])
    centre = float(np.divide(*typical(np.array(pairs).T)))
    ratio = Value(centre, min(ratio.low, centre), max(ratio.high, centre))
    return Timing(ratio, p50, float(np.percentile(mine.times, 95)), base_p50, len(pairs), bool(narrow))


def rotate(candidates: Sequence[Callable[[], object]], baseline: Callable[[], object], *, seconds: float) -> list[Track]:
    """Time many calls against one baseline: baseline, a, baseline, b, baseline, ... All candidates see the same moments of the machine,
    and the baseline stands around each. The order is reversed from one turn to the next; there are at least MIN_TURNS."""
    with pinned():
        base, bursts = Burst(baseline), [Burst(call) for call in candidates]
        mine: list[list[float]] = [[] for _ in bursts]
        around: list[list[tuple[float, float]]] = [[] for _ in bursts]
        stop, turn = time.perf_counter() + seconds, 0
        while turn < MIN_TURNS or time.perf_counter() < stop:
            before = base.run()
            for index in range(len(bursts))[:: -1 if turn % 2 else 1]:
                mine[index].append(bursts[index].run())
                after = base.run()
                around[index].append((before, after))
                before = after
            turn += 1
    return [Track(np.array(own), np.array(by), np.array(burst.times)) for own, by, burst in zip(mine, around, bursts, strict=True)]


class Burst:
    """Several runs of one call in a row, as a program in use makes them: about BURST_MS in all, the first ones not counted,
    since the thread pool is asleep then and the caches hold the other file's weights. Slow calls are a burst of one.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        warm_up(call)
        once = float(np.median([clock(call) for _ in range(3)]))
        self._call, self._count = call, int(min(MOST_RUNS, max(1, round(BURST_MS / max(once, 1e-6)))))
        self._skip = SKIPPED if self._count > 1 else 0
        self.times: list[float] = []

    def run(self) -> float:
        """Median milliseconds of one run of the call within a burst."""
        found = [clock(self._call) for _ in range(self._skip + self._count)][self._skip :]
        self.times += found
        return float(np.median(found))


@contextmanager
def pinned() -> Iterator[None]:
    """Keep this thread on the first core that it may use, so that it does not wander between two calls; a no-op where the
    system cannot. Threads that are born inside inherit the pin, so sessions are opened outside."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {host.cores()[0]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def warm_up(call: Callable[[], object], runs: int = 5, seconds: float = 0.05) -> None:
    """Call at least so often and for at least ``seconds``, before anything is timed."""
    stop = time.perf_counter() + seconds
    done = 0
    while done < runs or time.perf_counter() < stop:
        call()
        done += 1


def clock(call: Callable[[], object]) -> float:
    """Milliseconds of one call, by the monotonic clock."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1e6


def median_interval(samples: list[float]) -> Value:
    """The median with its distribution-free 95 % interval: order statistics n/2 -+ 0.98 sqrt(n) (normal approximation of the
    binomial), which assumes nothing about the shape of the noise."""
    ordered = np.sort(np.asarray(samples, dtype=float))
    n = len(ordered)
    half = 0.98 * np.sqrt(n)
    low, high = max(0, int(np.floor(n / 2 - half))), min(n - 1, int(np.ceil(n / 2 + half)))
    return Value(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))
