"""The one ruler: how long a call takes, always against another call timed in turn, and alone on the machine.

A pair is one short burst of each; the order alternates (A B, B A), because a fixed order favours one side (measured: 1.4 %).
Pairs are added until the 95 % interval of the median ratio is narrow enough or the time is used up. Single runs in turn
were tried first: for files of a tenth of a millisecond on two threads they disagreed by up to 46 % from one process to the next,
bursts by up to 20 %, because a thread pool that was asleep takes as long to wake as such a file takes to run.
"""

import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoslim import host
from autoslim.metrics import Value

BLOCK = 4
#: two-sided 95 % quantiles of Student's t by number of rounds
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
MIN_PAIRS, MIN_TURNS = 16, 4
BURST_MS, MOST_RUNS, SKIPPED = 3.0, 12, 2
TICK = 0.05


@dataclass(frozen=True)
class Timing:
    """Result of one comparison of a candidate with the baseline; times in milliseconds, ``p50`` the median of the bursts'
    medians, ``p95`` of all counted runs.

    ``ratio`` is candidate over baseline, the median of the pairs' ratios; all intervals are 95 % (order statistics).
    ``converged`` says whether the ratio's interval reached the asked width before time ran out.
    """

    ratio: Value
    p50: Value
    p95: float
    baseline_p50: Value
    pairs: int
    converged: bool


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
    return Timing(ratio, p50, float(np.percentile(mine.times, 95)), base_p50, len(pairs), bool(narrow))


def rotate(candidates: Sequence[Callable[[], object]], baseline: Callable[[], object], *, seconds: float) -> list[Timing]:
    """Time many calls against one baseline: baseline, a, baseline, b, baseline, ...; each candidate's burst is compared with the mean of
    the two of the baseline around it. All candidates see the same moments of the machine. The order is reversed from one turn to the
    next; there are at least MIN_TURNS, since several rotations are pooled."""
    with pinned():
        base, bursts = Burst(baseline), [Burst(call) for call in candidates]
        pairs: list[list[tuple[float, float]]] = [[] for _ in bursts]
        bases: list[float] = []
        stop, turn = time.perf_counter() + seconds, 0
        while turn < MIN_TURNS or time.perf_counter() < stop:
            before = base.run()
            for index in range(len(bursts))[:: -1 if turn % 2 else 1]:
                taken, after = bursts[index].run(), base.run()
                pairs[index].append((taken, (before + after) / 2))
                bases.append(after)
                before = after
            turn += 1
    return [summary(burst.times, own, bases) for burst, own in zip(bursts, pairs, strict=True)]


def summary(times: Sequence[float], pairs: Sequence[tuple[float, float]], bases: Sequence[float], width: float = 0.03) -> Timing:
    """A Timing from runs, pairs and the baseline's bursts."""
    ratio = median_interval([mine / base for mine, base in pairs])
    return Timing(
        ratio,
        median_interval([mine for mine, _ in pairs]),
        float(np.percentile(times, 95)),
        median_interval(list(bases)),
        len(pairs),
        bool((ratio.high - ratio.low) <= width * ratio.value),
    )


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


def pooled(found: Sequence[Timing], width: float = 0.03) -> Timing:
    """Several comparisons of the same two files as one. Values are means over the middle half of the rounds, intervals the
    wider of two: the rounds' own, and the spread from one round to the next (Student's t), so that what differs from one opening
    or one minute to another is part of the doubt."""
    ratio = between([one.ratio for one in found])
    return Timing(
        ratio,
        between([one.p50 for one in found]),
        float(np.median([one.p95 for one in found])),
        between([one.baseline_p50 for one in found]),
        sum(one.pairs for one in found),
        bool((ratio.high - ratio.low) <= width * ratio.value),
    )


def between(values: list[Value]) -> Value:
    """Mean of the middle half of several measurements, with an interval that holds their mean own interval and their spread."""
    middle = middle_mean([value.value for value in values])
    own = float(np.mean([value.high - value.low for value in values])) / 2 / np.sqrt(len(values))
    spread = (
        float(np.std([value.value for value in values], ddof=1)) / np.sqrt(len(values)) * student(len(values)) if len(values) > 1 else 0.0
    )
    half = max(own, spread)
    fastest = min(value.low for value in values)  # a time cannot be negative, and not shorter than any that was seen
    return Value(middle, float(max(min(fastest, middle), middle - half)), float(middle + half))


def student(rounds: int) -> float:
    """Two-sided 95 % quantile of Student's t for so many rounds; beyond the table two terms of its expansion around the normal
    quantile (Abramowitz & Stegun, 26.7.5), right to 0.003."""
    freedom = rounds - 1
    return STUDENT[rounds] if rounds in STUDENT else 1.96 + 2.372 / freedom + 2.823 / freedom**2


def middle_mean(values: Sequence[float]) -> float:
    """Mean without the lowest and the highest quarter: as steady as the mean, as deaf to outliers as the median."""
    ordered = np.sort(np.asarray(values, dtype=float))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


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


class Machine:
    """Shared by all of AutoSlim's processes on this machine: work goes on together, a timing has the machine alone.

    Two files hold advisory locks, which the system frees when a process dies. A process that wants to time takes ``gate``
    and then ``room`` exclusively; working processes hold ``room`` shared, and pass through ``gate`` at every pause, so that
    a waiting timer gets its turn.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or Path(tempfile.gettempdir())
        self._gate = self._open(folder / "autoslim.gate.lock")
        self._room = self._open(folder / "autoslim.room.lock")
        self._working = 0
        self._ticking = False

    @staticmethod
    def _open(path: Path) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:  # another user's file: a read lock needs no more
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def tick(self) -> None:
        """From now on pause by itself, twenty times a second, between any two steps of Python code in the main thread; so
        that a long export or a library's own loop does not hold up a timing. Main thread only."""
        signal.signal(signal.SIGALRM, lambda number, frame: self.pause())
        self._ticking = True

    def _beat(self, on: bool) -> None:
        if self._ticking:
            signal.setitimer(signal.ITIMER_REAL, TICK if on else 0.0, TICK if on else 0.0)

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the machine together with other workers; waits while a timing is under way."""
        if not self._working:
            self._enter()
            self._beat(True)
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._beat(False)
                fcntl.flock(self._room, fcntl.LOCK_UN)

    def pause(self) -> None:
        """Let a waiting timer pass. Call it often while working; costs microseconds when nobody waits."""
        if not self._working:
            return
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._enter()
        else:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the machine for a timing: waits until all work pauses."""
        self._beat(False)
        if self._working:
            fcntl.flock(self._room, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            if self._working:
                self._enter()
                self._beat(True)
