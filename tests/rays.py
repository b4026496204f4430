"""What the tests on Ray share: a cluster on this machine, and hands that sleep instead of working."""

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import autoslim
from autoslim.budget import Budget
from autoslim.candidate import Candidate, Failed
from autoslim.executors import _cluster
from autoslim.executors._hands import Reply
from autoslim.job import Job
from autoslim.recipe import Recipe, Step

#: nodes import these tests and this package
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).parent), str(Path(autoslim.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
)


@dataclass(frozen=True)
class Sleepy:
    """Makes hands that sleep ``seconds`` per candidate and write down when they begin and end; ``timing``: they ask the bench."""

    journal: str
    seconds: float
    timing: bool = False

    def __call__(self, name, away):
        return Hands(self, name, away)


class Hands:
    def __init__(self, told, name, away):
        import ray

        self.told, self.name, self.away, self.node = told, name, away, ray.get_runtime_context().get_node_id()

    def configure(self, setup):
        pass

    def ready(self):
        return True

    def close(self):
        pass

    def note(self, what, verb, number):
        line = json.dumps([what, verb, number, self.name, os.getpid(), self.node, time.time()])
        with open(self.told.journal, "a") as file:
            file.write(line + "\n")

    def do(self, verb, payload, beat, timed):
        number = payload.number if verb == "evaluate" else -1
        self.note("begin", verb, number)
        stop = time.monotonic() + self.told.seconds
        while time.monotonic() < stop:
            time.sleep(min(0.1, self.told.seconds))
            beat()
        answer = self.name
        if verb == "evaluate" and self.told.timing:
            kind, answer = timed(Path(__file__))
            assert kind == "ok", answer
        self.note("end", verb, number)
        if verb == "time":
            return Reply("ok", f"timed by {self.name}")
        return Reply("ok", Failed("error", f"slept by {answer}", {"pid": os.getpid()}), seconds=self.told.seconds)


def notes(journal):
    """Rows (what, verb, number, slot, pid, node, time) of the hands' journal."""
    return [json.loads(line) for line in Path(journal).read_text().splitlines()] if Path(journal).exists() else []


def job(out):
    return Job("no.task", {}, "onnxruntime_cpu", 1, str(out), Budget({}), ("metric", "latency_ms"), {})


def candidate(number):
    return Candidate(number, {}, Recipe.of([Step("channels", f"layer{number}", 0.5)]))


def drive(member, count, seconds=120, at=None):
    """Submit ``count`` candidates, keep all slots busy, return the outcomes by number in the order they came; ``at(number of ends)`` is
    called after every batch."""
    waiting, running, ends = list(range(count)), set(), []
    stop = time.monotonic() + seconds
    while waiting or running:
        assert time.monotonic() < stop, f"{len(ends)} of {count} ended in {seconds} s"
        while waiting and len(running) < member.slots:
            member.submit(candidate(waiting[0]))
            running.add(waiting.pop(0))
        for one, outcome in member.outcomes(1.0):
            running.discard(one.number)
            ends.append((one.number, outcome))
        if at is not None:
            at(len(ends))
    return ends


@contextmanager
def cluster(nodes, head_cpus=0):
    """A cluster whose head has no cores; ``nodes`` are the arguments of add_node. Gives the ray.cluster_utils.Cluster."""
    ray = _cluster.quiet_ray()
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, **small}, connect=False)
    try:
        for told in nodes:
            made.add_node(object_store_memory=100 * 2**20, **told)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
