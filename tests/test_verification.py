"""verification.py: rounds of timing that are taken one by one, with a contest and locks that are not real."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoslim import timing, verification
from autoslim.contest import Contest
from autoslim.errors import AutoSlimError
from autoslim.job import ROUND_SECONDS
from autoslim.outputs import Outputs
from autoslim.task import Task
from autoslim.verification import Verifier


def measured(p50):
    """A round of one input: 16 bursts of the same time against 2 ms."""
    return (timing.Track(np.full(16, p50), np.full((16, 2), 2.0), np.full(16, 2 * p50)),)


class Locks:
    """Notes the order of locks and timings."""

    def __init__(self):
        self.order = []

    @contextmanager
    def held(self, name):
        self.order.append(f"+{name}")
        yield
        self.order.append(f"-{name}")

    def working(self):
        return self.held("working")

    def alone(self):
        return self.held("alone")


class Rounds(Contest):
    """Files whose rounds are told beforehand."""

    def __init__(self, told, locks):
        super().__init__(None, 1, [([], 1.0)])
        self.told, self.locks, self.asked = told, locks, []

    def tournament(self, paths, base, seconds):
        if any(path.name == "broken" for path in paths):
            raise AutoSlimError("does not open")
        self.locks.order.append("round")
        self.asked.append((paths, base, seconds))
        return [measured(next(self.told[path.name])) for path in paths]


@pytest.fixture
def verifier():
    made = Verifier.__new__(Verifier)
    made.machine = Locks()
    made.contest = Rounds({"a": iter([1.0, 1.2, 1.4]), "b": iter([5.0, 5.0])}, made.machine)
    made._rounds = {}
    return made


@pytest.fixture
def files(tmp_path):
    """Paths of files a, b and broken, of 10 bytes each."""
    for name in ("a", "b", "broken"):
        (tmp_path / name).write_bytes(b"0123456789")
    return {name: str(tmp_path / name) for name in ("a", "b", "broken")}


def test_each_call_is_one_more_round_of_its_files(verifier, files):
    found = [verifier.clock([files[name] for name in names], "u") for names in ("a", "b", "ab", "a")]
    assert [[path.name for path in paths] for paths, _, _ in verifier.contest.asked] == [["a"], ["b"], ["a", "b"], ["a"]]
    assert [seconds for *_, seconds in verifier.contest.asked] == [n * ROUND_SECONDS for n in (1, 1, 2, 1)]
    own = [rows[0] for rows in (found[0], found[2], found[3])]
    assert [row["rounds"] for row in own] == [1, 2, 3]
    assert [row["latency_ms"]["value"] for row in own] == pytest.approx([1.0, 1.1, 1.2])
    assert [row["pairs"] for row in own] == [16, 32, 48]
    assert [row["converged"] for row in own] == [True, False, False]
    last = own[-1]
    assert last["latency_p95_ms"] == pytest.approx(np.percentile(np.repeat([2.0, 2.4, 2.8][: len(own)], 16), 95))
    assert last["latency_ratio"]["value"] == pytest.approx(0.6)
    assert last["latency_ms"]["low"] == 1.0
    assert last["latency_ms"]["high"] == pytest.approx(1.4)


def test_a_round_has_the_machine_alone(verifier, files):
    verifier.clock([files["a"]], "u")
    assert verifier.machine.order == ["+working", "+alone", "round", "-alone", "-working"]


def test_a_file_that_does_not_open_costs_the_others_nothing(verifier, files):
    found = verifier.clock([files["a"], files["broken"], files["b"]], "u")
    assert [row and row["rounds"] for row in found] == [1, None, 1]


def test_files_are_held_open_together_up_to_so_many_bytes(files):
    a, b, c = files.values()
    assert verification.batches_of([a, b, c], 20) == [[a, b], [c]]
    assert verification.batches_of([a, b, c], 5) == [[a], [b], [c]], "one at least, however large"
    assert verification.batches_of([], 5) == []


@pytest.mark.parametrize(("shift", "known"), [(None, True), (0.0, False)], ids=["the batches' own inputs", "inputs made anew"])
def test_a_corpus_metric_is_resampled_only_where_its_outputs_can_be_looked_up(verifier, shift, known):
    def evaluate(predict, batches):
        return {"metric": sum(float(predict(x if shift is None else x + shift).mean()) for x, _ in batches)}

    def data(split):
        return [(torch.full((4, 2), float(i)), None) for i in range(verification.FEWEST_BATCHES)]

    source = SimpleNamespace(model=print, example_input=print, data=data, evaluate=evaluate, METRICS={"metric": "max"})
    verifier.task, verifier.split = Task(source, "t"), "val"
    cache = Outputs(lambda x: x, lambda: None, True)
    score = verifier.task.score(cache.predict, "val", None, cache.remember(verifier.task.batches("val")))
    metric, lost = verifier.intervals(score, cache, score, cache)
    assert metric.value == sum(range(verification.FEWEST_BATCHES))
    assert (metric.low is not None) is known
    assert (lost.low is not None) is known
