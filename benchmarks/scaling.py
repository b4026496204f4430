"""How the controller and the slots scale: each part prints its own table and the goals; exits with 1 if one is missed.

Run: ``python benchmarks/scaling.py controller`` (asks, tells and resumes without any work; about ten minutes for 10,000 trials),
``python benchmarks/scaling.py slots`` (logical workers on trials that only sleep; needs the extra ``ray`` and 150 MB per worker).
``--trials 1000`` and ``--workers 1,4,16`` make them shorter. The machine should be idle.
"""

import argparse
import hashlib
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from autoslim import search as searching
from autoslim.budget import Budget
from autoslim.candidate import Candidate, Done, Failed
from autoslim.executors._hands import Reply
from autoslim.job import Job, Prepared
from autoslim.loop import Loop, Stop, Watcher
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, Step
from autoslim.space import Domain, SearchSpace
from autoslim.spec import load_study
from autoslim.structure import Structure
from autoslim.study import Study

UNTOUCHED = Measurement({"metric": Value(0.9), "latency_ms": Value(4.0), "size_bytes": Value(1e6)}, {}, {"samples": 100})
DIRECTIONS = ["max", "min", "min"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["controller", "slots"])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", default="1,2,4,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one trial sleeps")
    given = parser.parse_args()
    if given.part == "controller":
        return controller(given.trials)
    return slots([int(count) for count in given.workers.split(",")], given.seconds)


def table(head: list[str], rows: list[list[object]], goals: list[tuple[str, bool]]) -> int:
    """Print; 1 if a goal is missed."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |")
    for text, good in goals:
        print(f"{'met   ' if good else 'MISSED'} {text}")
    return 0 if all(good for _, good in goals) else 1


# -- the controller ---------------------------------------------------------------------------------------------------------


def space() -> SearchSpace:
    """Twelve decisions of four choices: 16.8 million points, so that repeats are rare."""

    def domain(layer: int) -> Domain:
        effects = tuple(((f"layer{layer}", width),) if width < 4 else () for width in (4, 3, 2, 1))
        return Domain(f"channels:layer{layer}", "channels", (1.0, 0.75, 0.5, 0.25), effects, ordered=True)

    return SearchSpace(tuple(domain(layer) for layer in range(12)), {})


class Instant:
    """An executor whose candidates end at once, with figures that depend on the recipe alone."""

    slots, say = 8, None

    def __init__(self, stamps: list[float]) -> None:
        self._ready: deque[tuple[Candidate, Done]] = deque()
        self._stamps = stamps

    def attach(self, prepared: object) -> None: ...

    def submit(self, candidate: Candidate) -> None:
        draw = hashlib.sha256(candidate.recipe.key.encode()).digest()
        values = {"metric": 0.5 + draw[0] / 640, "latency_ms": 1 + draw[1] / 85, "size_bytes": 1e5 + draw[2] * 3500}
        found = Measurement({name: Value(value) for name, value in values.items()}, {}, {"samples": 100, "gap": draw[3] / 100})
        self._ready.append((candidate, Done(found, {}, f"candidates/{candidate.recipe.key}/model.onnx", "ab" * 32, candidate.recipe)))

    def outcomes(self, seconds: float):
        self._stamps.append(time.monotonic())
        if self._ready:
            yield self._ready.popleft()


def opened(out: Path, trials: int, stamps: list[float]) -> Loop:
    """A loop over the study in ``out``, as `search.run` makes it, without workers."""
    spec = load_study(None, {"strategy": "random", "trials": str(trials), "name": "scaling"})
    loop = Loop(spec, out, None, Instant(stamps), Watcher(), Stop(), time.monotonic())
    loop.study = Study.open(out, "scaling", DIRECTIONS)
    (out / "models/untouched").mkdir(parents=True, exist_ok=True)
    (out / "models/untouched/model.onnx").write_bytes(b"")
    return loop


def prepared() -> Prepared:
    """What a first worker would have found."""
    nothing: dict = {}
    return Prepared(
        Structure(nothing, nothing, nothing), space(), nothing, UNTOUCHED, "ab" * 32, "accuracy", "max", True, (), nothing, {"weights": "w"}
    )


def controller(trials: int) -> int:
    """Seconds of the loop per trial around the 1,000th and the last, and of a resume."""
    with tempfile.TemporaryDirectory() as folder:
        out, stamps = Path(folder), []
        loop = opened(out, trials, stamps)
        searching.search(loop, searching.reconcile(loop, prepared(), []))
        loop.study.close()
        begun = time.monotonic()
        again = opened(out, trials + 1, [])
        searching.search(again, searching.reconcile(again, prepared(), []))
        resume = time.monotonic() - begun
        again.study.close()

    def window(last: int) -> float:
        first = max(0, last - 200)
        return (stamps[last - 1] - stamps[first]) / (last - 1 - first) * 1000

    rows = [[count, window(count)] for count in (200, 1000, 3000, 10_000) if count <= len(stamps)]
    rows.append([f"resume of {trials}, and one more", resume * 1000])
    goals = [(f"ask and tell at {trials} trials <= 10 ms", window(len(stamps)) <= 10), (f"resume of {trials} trials <= 10 s", resume <= 10)]
    return table(["trials", "ms"], rows, goals)


# -- the slots --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sleepers:
    """Makes hands that sleep."""

    seconds: float

    def __call__(self, name: str, away: bool) -> "Sleeper":
        return Sleeper(self.seconds)


class Sleeper:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def configure(self, setup: object) -> None: ...

    def ready(self) -> bool:
        return True

    def close(self) -> None: ...

    def do(self, verb: str, payload: object, beat, timed) -> Reply:
        stop = time.monotonic() + self._seconds
        while (left := stop - time.monotonic()) > 0:
            time.sleep(min(0.5, left))
            beat()
        return Reply("ok", Failed("error", "slept"), seconds=self._seconds)


def slots(counts: list[int], seconds: float) -> int:
    """Parallel efficiency: slept seconds over slots times wall time, once every slot is up; starting apart."""
    rows, goals = [], []
    for count in counts:
        started, wall, trials, first = slept(count, seconds)
        efficiency = trials * seconds / count / wall
        rows.append([count, started, first, trials, wall, trials / wall, efficiency])
        goals.append((f"{count} slots: efficiency >= 0.9", efficiency >= 0.9))
    return table(["slots", "start, s", "first trial, s", "trials", "wall, s", "trials / s", "efficiency"], rows, goals)


def slept(count: int, seconds: float) -> tuple[float, float, int, float]:
    """(seconds until all slots are up, wall time of the trials, trials, seconds until the first trial could run)."""
    from autoslim.executors.ray_tune import Member

    trials = 6 * count
    with tempfile.TemporaryDirectory() as folder:
        job = Job("none", {}, "onnxruntime_cpu", 1, folder, Budget({}), ("metric", "latency_ms"), {})
        begun = time.monotonic()
        member = Member(job, workers=count, cpus=1, make=Sleepers(seconds))
        member.open()
        try:
            first = wait_for(member, 1, begun)
            started = wait_for(member, count, begun)
            member.attach(None)
            begun = time.monotonic()
            asked = ended = 0
            while ended < trials:
                while asked < trials and asked - ended < member.slots:
                    member.submit(Candidate(asked, {}, Recipe.of([Step("channels", f"layer{asked}", 0.5)])))
                    asked += 1
                ended += sum(1 for _ in member.outcomes(1.0))
            return started, time.monotonic() - begun, trials, first
        finally:
            member.close()


def wait_for(member: object, count: int, begun: float) -> float:
    """Seconds since ``begun`` when so many slots have said hello."""
    while len(member.state()["slots"]) < count:
        time.sleep(0.1)
    return time.monotonic() - begun


if __name__ == "__main__":
    sys.exit(main())
