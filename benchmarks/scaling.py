"""How the controller and the slots scale: each part prints its own table and the goals; exits with 1 if one is missed.

Run: ``python benchmarks/scaling.py controller`` (asks, tells and resumes without any work), ``slots`` (logical workers on trials that only
sleep), ``start`` (from the command to the first trial on a cluster that is up) or ``loss`` (a node is lost while it works). All but the
first need the extra ``ray``; ``slots`` needs 150 MB per worker. ``--trials 1000`` and ``--workers 1,4,16`` make them shorter. The machine
should be idle.
"""

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
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
from autoslim.host import physical_cores, processor
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
    """Run one part and print its table; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["controller", "slots", "start", "loss"])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", default="1,2,4,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long one trial sleeps")
    given = parser.parse_args()
    parts = {
        "controller": lambda: controller(given.trials),
        "slots": lambda: slots([int(count) for count in given.workers.split(",")], given.seconds),
        "start": start,
        "loss": lambda: loss(given.seconds),
    }
    print(f"{processor()}, {physical_cores()} cores, load {os.getloadavg()[0]:.1f} at the beginning", file=sys.stderr)
    return parts[given.part]()


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
    """An executor whose candidates end at once, with figures that depend on the recipe alone and a file each."""

    slots, say = 8, None

    def __init__(self, out: Path, stamps: list[tuple[float, float]]) -> None:
        self._ready: deque[tuple[Candidate, Done]] = deque()
        self._out, self._stamps = out, stamps

    def attach(self, prepared: object) -> None: ...

    def submit(self, candidate: Candidate) -> None:
        draw = hashlib.sha256(candidate.recipe.key.encode()).digest()
        values = {"metric": 0.5 + draw[0] / 640, "latency_ms": 1 + draw[1] / 85, "size_bytes": 1e5 + draw[2] * 3500}
        found = Measurement({name: Value(value) for name, value in values.items()}, {}, {"samples": 100, "gap": draw[3] / 100})
        file = f"candidates/{candidate.recipe.key}/model.onnx"
        (self._out / file).parent.mkdir(parents=True)
        (self._out / file).write_bytes(b"weights")
        self._ready.append((candidate, Done(found, {}, file, "ab" * 32, candidate.recipe)))

    def outcomes(self, seconds: float):
        self._stamps.append((time.monotonic(), time.process_time()))
        if self._ready:
            yield self._ready.popleft()


def opened(out: Path, trials: int, stamps: list[tuple[float, float]]) -> Loop:
    """A loop over the study in ``out``, as `search.run` makes it, without workers."""
    spec = load_study(None, {"strategy": "random", "trials": str(trials), "patience": "0", "name": "scaling"})
    loop = Loop(spec, out, None, Instant(out, stamps), Watcher(), Stop(), time.monotonic())
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
    """Seconds of the loop per trial, the sampler's draw included, around some numbers of trials; and of a resume."""
    with tempfile.TemporaryDirectory() as folder:
        out, stamps, again = Path(folder), [], []
        loop = opened(out, trials, stamps)
        searching.search(loop, searching.reconcile(loop, prepared(), []))
        loop.study.close()
        begun = time.monotonic(), time.process_time()
        resumed = opened(out, trials + 1, again)
        searching.search(resumed, searching.reconcile(resumed, prepared(), []))
        resume = [again[0][clock] - begun[clock] for clock in (0, 1)]
        resumed.study.close()

    def window(last: int) -> list[float]:
        """Milliseconds per trial, by the clock and of the processor, of the 500 trials before."""
        first = max(0, last - 500)
        return [(stamps[last - 1][clock] - stamps[first][clock]) / (last - 1 - first) * 1000 for clock in (0, 1)]

    ends = sorted({count for count in (500, 1000, 3000) if count < len(stamps)} | {len(stamps)})
    rows = [[f"ask and tell, trials {max(0, count - 500)} to {count}", *window(count)] for count in ends]
    rows.append([f"resume of {trials}, up to the next trial's end", *(value * 1000 for value in resume)])
    goals = [
        (f"ask and tell at {trials} trials <= 10 ms", window(len(stamps))[0] <= 10),
        (f"resume of {trials} trials <= 10 s", resume[0] <= 10),
    ]
    return table(["what", "ms", "of them CPU"], rows, goals)


# -- the slots --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sleepers:
    """Makes hands that sleep, and note in the file ``journal``, if there is one, which trial they begin where."""

    seconds: float
    journal: str = ""

    def __call__(self, name: str, away: bool) -> "Sleeper":
        return Sleeper(self.seconds, self.journal)


class Sleeper:
    def __init__(self, seconds: float, journal: str) -> None:
        self._seconds, self._journal = seconds, journal

    def configure(self, setup: object) -> None: ...

    def ready(self) -> bool:
        return True

    def close(self) -> None: ...

    def do(self, verb: str, payload: object, beat, timed) -> Reply:
        self._note(payload)
        stop = time.monotonic() + self._seconds
        while (left := stop - time.monotonic()) > 0:
            time.sleep(min(0.5, left))
            beat()
        return Reply("ok", Failed("error", "slept"), seconds=self._seconds)

    def _note(self, candidate: object) -> None:
        if self._journal:
            import ray

            with open(self._journal, "a", encoding="utf-8") as file:
                file.write(json.dumps([candidate.number, ray.get_runtime_context().get_node_id(), time.time()]) + "\n")


def sleepers_job(folder: str) -> Job:
    return Job("none", {}, "onnxruntime_cpu", 1, folder, Budget({}), ("metric", "latency_ms"), {})


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
        begun = time.monotonic()
        member = Member(sleepers_job(folder), workers=count, cpus=1, make=Sleepers(seconds))
        member.open()
        try:
            first = wait_for(member, 1, begun)
            started = wait_for(member, count, begun)
            member.attach(None)
            begun = time.monotonic()
            work(member, trials)
            return started, time.monotonic() - begun, trials, first
        finally:
            member.close()


def work(member: object, trials: int, look=lambda: None) -> None:
    """Keep all slots busy with so many trials; ``look`` is called now and then."""
    asked = ended = 0
    while ended < trials:
        while asked < trials and asked - ended < member.slots:
            member.submit(Candidate(asked, {}, Recipe.of([Step("channels", f"layer{asked}", 0.5)])))
            asked += 1
        ended += sum(1 for _ in member.outcomes(0.5))
        look()


def wait_for(member: object, count: int, begun: float) -> float:
    """Seconds since ``begun`` when so many slots have said hello."""
    while len(member.state()["slots"]) < count:
        time.sleep(0.1)
    return time.monotonic() - begun


# -- a cluster that is up ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def cluster(nodes: int, cpus: int):
    """A cluster of this machine: a head without cores, a bench, and so many nodes of so many cores."""
    from autoslim.executors import _cluster

    ray = _cluster.quiet_ray()
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small}, connect=False)
    try:
        made.add_node(num_cpus=0, resources={"bench:board": 1}, object_store_memory=100 * 2**20)
        for _ in range(nodes):
            made.add_node(num_cpus=cpus, object_store_memory=100 * 2**20)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def start() -> int:
    """Seconds from `autoslim search` on a cluster that is up to its first trial, untouched model analysed and measured before."""
    with tempfile.TemporaryDirectory() as folder, cluster(1, 2) as made:
        words = ["search", "digits", "--strategy", "random", "--trials", "4", "--verify", "1", "--out", folder, "--threads", "1"]
        words += ["--executor", "ray_tune", "--address", made.address, "--target", "board"]
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "autoslim", *words], stderr=subprocess.PIPE, text=True)
        asked = ended = None
        for line in process.stderr:
            print(line.rstrip(), file=sys.stderr)
            if asked is None and line.rstrip().endswith("] search"):
                asked = time.monotonic() - begun
            if "hypervolume" in line:
                ended = time.monotonic() - begun
                break
        process.kill()
        process.wait()
    if ended is None:
        raise SystemExit("the search ended without a trial")
    return table(
        ["seconds after the command", "s"],
        [["first trial asked", asked], ["first trial ended", ended]],
        [("first trial running <= 20 s after the command", asked <= 20)],
    )


def loss(seconds: float) -> int:
    """Seconds from the kill of a node's processes to each of its trials running again elsewhere."""
    from autoslim.executors.ray_tune import Member

    with tempfile.TemporaryDirectory() as folder, cluster(2, 2) as made:
        journal, lost = Path(folder) / "journal", {}
        member = Member(sleepers_job(folder), address=made.address, target="board", make=Sleepers(seconds, str(journal)))
        member.open()
        member.attach(None)

        def strike() -> None:
            rows = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
            young = [row for row in rows if time.time() - row[2] < seconds / 4]
            if lost or len(rows) < 6 or not young:
                return
            node = next(one for one in made.worker_nodes if one.node_id == young[-1][1])
            lost["trials"] = {row[0] for row in young if row[1] == node.node_id}
            lost["at"] = time.time()
            made.remove_node(node, allow_graceful=False)

        try:
            work(member, 20, strike)
        finally:
            member.close()
        rows = [json.loads(line) for line in journal.read_text().splitlines()]
    again = {number: at - lost["at"] for number, _, at in rows if number in lost["trials"] and at > lost["at"]}
    return table(
        ["trial that the node had", "running again after, s"],
        sorted(again.items()),
        [("node loss noticed and its trials running again <= 30 s", len(again) == len(lost["trials"]) and max(again.values()) <= 30)],
    )


if __name__ == "__main__":
    sys.exit(main())
