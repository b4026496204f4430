"""What the tests on Ray share: a cluster on this machine, and hands that sleep instead of working."""

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import faults

import autoslim
from autoslim.budget import Budget
from autoslim.candidate import Candidate
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
        if verb == "evaluate" and self.told.timing:
            kind, answer = timed(Path(__file__))
            assert (kind, answer) == ("ok", "timed by bench")
        self.note("end", verb, number)
        if verb == "time":
            return Reply("ok", f"timed by {self.name}")
        outcome, content = faults.found(payload)
        return Reply("ok", outcome, {outcome.model_file: (outcome.sha256, content)}, seconds=self.told.seconds)


def notes(journal):
    """Rows (what, verb, number, slot, pid, node, time) of the hands' journal."""
    return [json.loads(line) for line in Path(journal).read_text().splitlines()] if Path(journal).exists() else []


def worked(journal):
    """Numbers of the trials that some hands began and ended."""
    return {row[2] for row in notes(journal) if row[:2] == ["end", "evaluate"]}


def job(out):
    return Job("no.task", {}, "onnxruntime_cpu", 1, str(out), Budget({}), ("metric", "latency_ms"), {})


def candidate(number):
    return Candidate(number, {}, Recipe.of([Step("channels", f"layer{number}", 0.5)]))


@contextmanager
def cluster(nodes, head_cpus=0, **head):
    """A cluster whose head has no cores; ``nodes`` are the arguments of add_node, ``head`` further ones of the head. Gives the
    ray.cluster_utils.Cluster."""
    ray = _cluster.quiet_ray()
    from ray.cluster_utils import Cluster

    assert not ray.is_initialized()
    small = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, **small, **head}, connect=False)
    try:
        for told in nodes:
            made.add_node(object_store_memory=100 * 2**20, **told)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
