"""outputs.py: what verification keeps of a pass, by bytes; figures from what is kept equal those of a second run."""

import gc
import weakref

import numpy as np
import pytest
import torch

from autoslim import outputs
from autoslim.metrics import Value
from autoslim.outputs import Outputs
from autoslim.task import Task
from autoslim.verification import Verifier


class Source:
    """Batches of large inputs and small outputs; the last batch is smaller, so that means of batches are uneven."""

    METRICS = {"score": "max"}

    def __init__(self, batches=10, side=64):
        self.count, self.side = batches, side
        self.seen = []

    def model(self):
        return torch.nn.Flatten()

    def example_input(self):
        return torch.rand(1, 3, self.side, self.side)

    def data(self, split):
        generator = torch.Generator().manual_seed(1)
        for number in range(self.count):
            inputs = torch.rand(4 if number < self.count - 1 else 2, 3, self.side, self.side, generator=generator)
            self.seen.append(weakref.ref(inputs))
            yield inputs, torch.arange(len(inputs)) % 2

    def metric(self, found, targets):
        return float((found.argmax(1) == targets).float().mean())


class Corpus(Source):
    def evaluate(self, predict, batches):
        right = [(predict(inputs).argmax(1) == targets).float() for inputs, targets in batches]
        return {"score": float(torch.cat(right).mean())}


def run(inputs):
    return torch.stack([inputs.flatten(1)[:, 0], inputs.flatten(1)[:, 1]], 1)


def passed(source):
    task = Task(source, "t")
    cache = Outputs(run, lambda: None, task.is_corpus)
    return task, task.score(cache.predict, "test", None, cache.remember(task.batches("test"))), cache


def intervals(task, score, cache):
    made = Verifier.__new__(Verifier)
    made.task, made.split = task, "test"
    return made.intervals(score, cache, score, cache)


@pytest.mark.parametrize("build", [Source, Corpus])
def test_the_interval_comes_from_what_was_kept(build):
    task, score, cache = passed(build())
    metric, lost = intervals(task, score, cache)
    assert metric.low < metric.value < metric.high
    assert (lost.low, lost.value, lost.high) == (0.0, 0.0, 0.0)
    again = [(targets, run(inputs)) for inputs, targets in task.batches("test")]
    for (targets, kept), (other, fresh) in zip(cache.pairs(), again, strict=True):
        assert torch.equal(targets, other)
        assert torch.equal(kept, fresh)


def test_inputs_live_on_only_for_a_corpus_metric():
    for build, alive in ((Source, 0), (Corpus, 10)):
        source = build()
        kept = passed(source)
        gc.collect()
        assert sum(one() is not None for one in source.seen) == alive
        del kept


@pytest.mark.parametrize("build", [Source, Corpus])
def test_above_the_limit_nothing_is_kept_and_no_interval_is_told(build, monkeypatch):
    monkeypatch.setattr(outputs, "MOST_BYTES", 100)
    source = build()
    task, score, cache = passed(source)
    gc.collect()
    assert not cache.whole
    assert (cache.batches, cache.pairs(), cache.held) == ([], [], 0)
    assert sum(one() is not None for one in source.seen) == 0
    whole = passed(build())[1]
    assert score.values == whole.values
    assert intervals(task, score, cache) == (Value(score.values["score"]), Value(0.0))


def test_sizes_are_those_of_tensors_and_arrays():
    assert outputs.size_of({"a": torch.zeros(10, 3), "b": [np.zeros(5), torch.zeros(2, dtype=torch.int8)]}) == 120 + 40 + 2
    assert outputs.size_of(["word" * 1000]) > 4000
