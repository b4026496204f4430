"""Re-open shipped files in a process that made none of them: hash, test score with intervals, latency, memory."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from autoslim import kernels, plugins, statistics, threads
from autoslim.changes import Changes
from autoslim.clock import sha256
from autoslim.contest import Round
from autoslim.device import contest_of
from autoslim.digest import Digest
from autoslim.errors import AutoSlimError
from autoslim.formats import is_integer
from autoslim.job import ROUND_SECONDS, Job
from autoslim.machine import Machine
from autoslim.meters import Meters
from autoslim.metrics import Value
from autoslim.outputs import Outputs, Unseen
from autoslim.task import Score, Task, finite

#: corpus metrics get an interval by resampling batches, if there are enough of them and they were kept (outputs.MOST_BYTES)
FEWEST_BATCHES = 8
#: bytes of files that are held open at once
HELD_OPEN = 400_000_000
#: runs of a file under the profiler
PROFILED = 10


class Verifier:
    """Compares shipped files with the untouched one, whose score is taken once."""

    def __init__(self, job: Job, task: Task) -> None:
        threads.limit(job.threads)
        self.job, self.task = job, task
        self.machine = Machine()
        self.runtime = plugins.load("runtimes", job.runtime)
        self.split = "test" if task.has("test") else "val"
        self.meters = Meters(job, self.runtime)
        self.meters.start()
        self.changes = Changes(task, lambda path: self.runtime.open(path, job.threads), self.split, self.machine.pause)
        self.contest = contest_of(self.runtime, job.threads, task.latency_inputs())
        self._rounds: dict[str, list[Round]] = {}
        self._base: tuple[Path, Score, Any] | None = None
        self._profile: tuple[Path, list[dict[str, Any]]] | None = None

    def verify(self, file: str, untouched: str, expected: str) -> dict[str, Any]:
        """Plain data of one file: {"split", "n", "metric", "drop", "others", ...} and the facts of a first round of timing; raises
        AutoSlimError if the bytes are not those that were recorded, or the file does not open."""
        path, base = Path(file), Path(untouched)
        found = sha256(path)
        if found != expected:
            raise AutoSlimError(f"{path}: sha256 is {found[:12]}..., the study recorded {expected[:12]}...; the file was changed")
        with self.machine.working():
            base_score, base_cache = self.base(base)
            self.meters.begin(path)
            score, cache = self.score(path, base)
            finite(self.task, base_score, self.split)
            finite(self.task, score, self.split)
            metric, lost = self.intervals(score, cache, base_score, base_cache)
            memory = self.meters.memory_of(path)
            with self.machine.alone():
                energy = self.meters.energy_of(path, self.task.latency_input)
            changed = self.changes.found(cache, base_cache)
        timed = self.clock([file], untouched)[0]
        if timed is None:
            raise AutoSlimError(f"{path}: does not open in this process")
        return {
            **timed,
            "split": self.split,
            "n": score.n,
            "data": base_cache.digest.text(),
            "metric": vars(metric),
            "drop": vars(lost),
            "others": {name: value for name, value in list(score.values.items())[1:] if math.isfinite(value)},
            "peak_memory_bytes": memory["peak_memory_bytes"].value if memory else timed.get("peak_memory_bytes"),
            **{name: vars(value) for name, value in energy.items()},
            "size_bytes": path.stat().st_size,
            "sha256": found,
            "changes": changed,
        }

    def check(self, file: str, untouched: str, seconds: float, within: float) -> dict[str, Any]:
        """The checks of checks/ on one file, see Changes.checked, and {"kernels": which run as integers, see kernels.told}, None without a
        profiler or where none was meant to."""
        with self.machine.working():
            found = self.changes.checked(Path(file), Path(untouched), seconds, within)
            return {**found, "kernels": self.kernels(Path(file), Path(untouched))}

    def kernels(self, path: Path, untouched: Path) -> dict[str, Any] | None:
        """What the runtime's profiler says of a file that was meant to compute in integers, against the untouched one."""
        if not hasattr(self.runtime, "profile") or not any(map(is_integer, self.runtime.bits(path).values())):
            return None
        inputs, threads = self.task.latency_input, self.job.threads
        with self.machine.alone():
            if self._profile is None or self._profile[0] != untouched:
                self._profile = untouched, self.runtime.profile(untouched, inputs, threads, PROFILED)
            rows = self.runtime.profile(path, inputs, threads, PROFILED)
        runtime = self.runtime
        return kernels.told(kernels.explain(rows, runtime.bits(path), runtime.widths(path), self._profile[1], runtime.fell(path)))

    def clock(self, files: list[str], untouched: str) -> list[dict[str, Any] | None]:
        """One more round of timing for all ``files``, in rotation; per file the facts of all its rounds so far, None where one does not
        open. Rounds are spread over the whole verification: a shared machine's speed drifts by more within a minute than it
        trembles within a second."""
        found: dict[str, Round] = {}
        for some in batches_of(files, HELD_OPEN):
            with self.machine.working(), self.machine.alone():
                found |= self.rotation(some, Path(untouched))
        return [self.facts(file, found[file]) if file in found else None for file in files]

    def rotation(self, files: list[str], untouched: Path) -> dict[str, Round]:
        """One rotation of files that are held open together; one by one if any of them does not open."""
        try:
            timed = self.contest.tournament([Path(file) for file in files], untouched, ROUND_SECONDS * len(files))
            return dict(zip(files, timed, strict=True))
        except AutoSlimError:
            if len(files) == 1:
                return {}
            return {name: timed for file in files for name, timed in self.rotation([file], untouched).items()}

    def facts(self, file: str, latest: Round) -> dict[str, Any]:
        """The figures of all rounds of a file, ``latest`` included."""
        rounds = self._rounds.setdefault(file, [])
        rounds.append(latest)
        timed = self.contest.settle(rounds)
        values = self.contest.values(timed)
        memory = values.pop("peak_memory_bytes", None)  # a plain number in the rows
        return {
            **{name: vars(value) for name, value in values.items()},
            **({"peak_memory_bytes": memory.value} if memory else {}),
            "latency_p95_ms": timed.p95,
            "pairs": timed.pairs,
            "converged": timed.converged,
            "rounds": len(rounds),
        }

    def base(self, path: Path) -> tuple[Score, Any]:
        """(score, outputs) of the untouched file, computed once."""
        if self._base is None or self._base[0] != path:
            score, cache = self.score(path, path, Digest())
            self._base = path, score, cache
        return self._base[1], self._base[2]

    def score(self, path: Path, untouched: Path, digest: Digest | None = None) -> tuple[Score, Outputs]:
        """(score, outputs) of a file on the test split, or on val without one."""
        session = self.runtime.open(path, self.job.threads)
        original = self.runtime.open(untouched, self.job.threads).run
        cache = Outputs(session.run, self.machine.pause, self.task.is_corpus, digest)
        return self.task.score(cache.predict, self.split, original, cache.remember(self.task.batches(self.split))), cache

    def intervals(self, score: Score, cache: Outputs, base: Score, base_cache: Outputs) -> tuple[Value, Value]:
        """(metric with interval, drop against untouched with interval); without an interval where none can be had."""
        sign = 1.0 if next(iter(self.task.metrics.values())) == "max" else -1.0
        value, reference = next(iter(score.values.values())), next(iter(base.values.values()))
        lost = (reference - value) * sign
        if score.per_unit is not None and base.per_unit is not None and len(score.per_unit) == len(base.per_unit):
            if len(score.per_unit) < FEWEST_BATCHES:
                return Value(value), Value(lost)
            return statistics.mean_interval(score.per_unit), statistics.paired_interval(base.per_unit * sign, score.per_unit * sign)
        if not self.task.resamples or not cache.whole or len(cache.batches) < FEWEST_BATCHES:
            return Value(value), Value(lost)
        lead = next(iter(self.task.metrics))

        def again(which: Outputs, drawn: np.ndarray) -> float:
            return self.task.score(which.recall, self.split, None, [which.batches[i] for i in drawn]).values[lead]

        n = len(cache.batches)
        try:
            low, high = statistics.corpus_interval(lambda drawn: again(cache, drawn), n)
            drop_low, drop_high = statistics.corpus_interval(lambda drawn: (again(base_cache, drawn) - again(cache, drawn)) * sign, n)
        except Unseen:  # evaluate() makes inputs of its own, whose outputs cannot be looked up again
            return Value(value), Value(lost)
        if not all(map(math.isfinite, (low, high, drop_low, drop_high))):
            return Value(value), Value(lost)  # undefined on some of the samples that were drawn
        return Value(value, low, high), Value(lost, drop_low, drop_high)


def batches_of(files: list[str], most: int) -> list[list[str]]:
    """The files in groups of at most ``most`` bytes, at least one file each."""
    groups: list[list[str]] = []
    held = 0
    for file in files:
        size = Path(file).stat().st_size
        if not groups or held + size > most:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += size
    return groups
