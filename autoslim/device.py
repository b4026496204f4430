"""Files against the untouched one on a device that a command reaches: the command is called for both in turn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoslim.command import Answer, Command
from autoslim.contest import Contest
from autoslim.errors import DeviceFailed
from autoslim.inputs import batch_size
from autoslim.metrics import Value
from autoslim.timing import BLOCKS, Timing, Track, settled

#: calls per file of a comparison; fewer calls than BLOCKS have no bootstrap, their interval is all that was seen
FEWEST = 3
#: full width of the ratio's interval, relative to the ratio, that counts as known
WIDTH = 0.03


@dataclass(frozen=True)
class Reported(Timing):
    """A Timing and what else the device told of the candidate; None where it told nothing."""

    energy_mj: Value | None = None
    peak_memory_bytes: Value | None = None
    batch: float | None = None


@dataclass(frozen=True)
class Calls:
    """One rotation of one file: its calls, and the untouched file's before and after each."""

    mine: tuple[Answer, ...]
    around: tuple[tuple[Answer, Answer], ...]


def contest_of(runtime: Any, threads: int, inputs: Any) -> Any:
    """How a runtime's files are compared: by a contest of its own, else by the clock of this machine."""
    return runtime.contest(threads, inputs) if hasattr(runtime, "contest") else Contest(runtime, threads, inputs)


class DeviceContest:
    """As Contest. What one run reads is the command's own affair: of ``inputs`` only the batch counts, where the command tells none."""

    def __init__(self, command: Command, threads: int, inputs: Any) -> None:
        self._command, self._threads = command, threads
        self._batch = sum(batch_size(one) * weight for one, weight in inputs)

    def round(self, path: Path, base: Path, seconds: float) -> Reported:
        """One comparison, of FEWEST calls of each file at least."""
        return self.settle([(self._turns([path], base, seconds, FEWEST)[0],)])

    def tournament(self, paths: Sequence[Path], base: Path, seconds: float) -> list[tuple[Calls]]:
        """One rotation of many files: base, a, base, b, base; again while there is time."""
        return [(calls,) for calls in self._turns(paths, base, seconds, 1)]

    def settle(self, rounds: Sequence[tuple[Calls]]) -> Reported:
        """All rounds of one file as one Timing."""
        mine = [one for (calls,) in rounds for one in calls.mine]
        around = [pair for (calls,) in rounds for pair in calls.around]
        found = timed(mine, around)
        energy = [one.energy_mj for one in mine]
        memory = [one.peak_memory_bytes for one in mine]
        return Reported(
            **vars(found),
            energy_mj=None if None in energy else spread(energy),
            peak_memory_bytes=None if None in memory else Value(max(memory)),
            batch=mine[0].batch,
        )

    def values(self, found: Reported) -> dict[str, Value]:
        """Under the names of METRICS."""
        p50, batch = found.p50, found.batch or self._batch
        through = Value(1000 * batch / p50.value, 1000 * batch / p50.high, 1000 * batch / p50.low)
        told = {"energy_mj": found.energy_mj, "peak_memory_bytes": found.peak_memory_bytes}
        return {"latency_ms": p50, "latency_ratio": found.ratio, "throughput": through} | {k: v for k, v in told.items() if v is not None}

    def _turns(self, paths: Sequence[Path], base: Path, seconds: float, fewest: int) -> list[Calls]:
        mine: list[list[Answer]] = [[] for _ in paths]
        around: list[list[tuple[Answer, Answer]]] = [[] for _ in paths]
        stop, turn, before = time.perf_counter() + seconds, 0, self._ask(base)
        while turn < fewest or time.perf_counter() < stop:
            for index in range(len(paths))[:: -1 if turn % 2 else 1]:
                mine[index].append(self._ask(paths[index]))
                after = self._ask(base)
                around[index].append((before, after))
                before = after
            turn += 1
        return [Calls(tuple(own), tuple(by)) for own, by in zip(mine, around, strict=True)]

    def _ask(self, path: Path) -> Answer:
        try:
            return self._command.ask(path, self._threads)
        except DeviceFailed as error:
            raise DeviceFailed(f"{path.parent.name}/{path.name}: {error}", error.reason) from None


def timed(mine: Sequence[Answer], around: Sequence[tuple[Answer, Answer]]) -> Timing:
    """Calls as a Timing; a call counts with the median of its runs."""
    own = np.array([np.median(one.times_ms) for one in mine])
    base = np.array([[np.median(one.times_ms) for one in pair] for pair in around])
    runs = np.concatenate([one.times_ms for one in mine])
    if len(own) >= BLOCKS:
        return settled([Track(own, base, runs)], WIDTH)
    centre = float(np.median(base))
    ratio = spread((own / base.mean(1)).tolist() if len(own) > 1 else (runs / centre).tolist(), float(np.median(own)) / centre)
    narrow = len(own) > FEWEST and ratio.high - ratio.low <= WIDTH * ratio.value
    p50 = spread(own.tolist() if len(own) > 1 else runs.tolist(), float(np.median(own)))
    return Timing(ratio, p50, float(np.percentile(runs, 95)), spread(base.ravel().tolist()), len(own), bool(narrow))


def spread(values: Sequence[float], centre: float | None = None) -> Value:
    """The median (or ``centre``) with everything that was seen as its interval: of 6 values it holds the true median in 97 % of cases, of 3
    in 75 % (2 ** (1 - n) are missed)."""
    middle = float(np.median(values)) if centre is None else centre
    return Value(middle, float(min(*values, middle)), float(max(*values, middle)))
