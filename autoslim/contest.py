"""A shipped file against the untouched one on a task's inputs: short comparisons and long rotations; several inputs by weight."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoslim.inputs import Inputs, batch_size
from autoslim.interfaces import Runtime
from autoslim.metrics import Value
from autoslim.timing import Timing, Track, compare, rotate, settled

Weighted = Sequence[tuple[Inputs, float]]
#: what one rotation found of one file: a track per input
Round = tuple[Track, ...]


class Contest:
    """``inputs`` are what is timed, each with its weight; the weights sum to 1. ``threads`` as the runtime takes them."""

    def __init__(self, runtime: Runtime, threads: int, inputs: Weighted) -> None:
        self._runtime, self._threads, self._inputs = runtime, threads, inputs

    def round(self, path: Path, base: Path, seconds: float) -> Timing:
        """One comparison, both files opened anew for it."""
        mine, other = self._runtime.open(path, self._threads), self._runtime.open(base, self._threads)
        found = [compare(mine.bind(inputs), other.bind(inputs), seconds=seconds * weight) for inputs, weight in self._inputs]
        return mixed(found, [weight for _, weight in self._inputs])

    def tournament(self, paths: Sequence[Path], base: Path, seconds: float) -> list[Round]:
        """One rotation of many files against ``base``, of together ``seconds``; all are opened anew and held open at once."""
        sessions = [self._runtime.open(path, self._threads) for path in paths]
        other = self._runtime.open(base, self._threads)
        found = [
            rotate([session.bind(inputs) for session in sessions], other.bind(inputs), seconds=seconds * weight)
            for inputs, weight in self._inputs
        ]
        return list(zip(*found, strict=True))

    def settle(self, rounds: Sequence[Round]) -> Timing:
        """All rounds of one file as one Timing."""
        return mixed([settled(tracks) for tracks in zip(*rounds, strict=True)], [weight for _, weight in self._inputs])

    def values(self, found: Timing) -> dict[str, Value]:
        """A Timing under the names of METRICS."""
        p50, batch = found.p50, sum(batch_size(inputs) * weight for inputs, weight in self._inputs)
        through = Value(1000 * batch / p50.value, 1000 * batch / p50.high, 1000 * batch / p50.low)
        return {"latency_ms": p50, "latency_ratio": found.ratio, "throughput": through}


def mixed(found: Sequence[Timing], weights: Sequence[float]) -> Timing:
    """Timings of several inputs as one: times are weighted means, and the ratio is that of the weighted times."""
    if len(found) == 1:
        return found[0]
    shares = np.array([weight * one.baseline_p50.value for one, weight in zip(found, weights, strict=True)])

    def mean(values: Sequence[Value], by: Sequence[float]) -> Value:
        table = np.array([[value.value, value.low, value.high] for value in values])
        return Value(*(float(x) for x in np.asarray(by) @ table / np.sum(by)))

    return Timing(
        mean([one.ratio for one in found], shares),
        mean([one.p50 for one in found], weights),
        float(np.dot(weights, [one.p95 for one in found])),
        mean([one.baseline_p50 for one in found], weights),
        sum(one.pairs for one in found),
        all(one.converged for one in found),
    )
