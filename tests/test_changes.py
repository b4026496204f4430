"""Per-class and noise figures, against counts by hand and a published interval."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from autoslim import changes
from autoslim.task import Task


def scores(guesses, classes=3):
    return torch.nn.functional.one_hot(torch.tensor(guesses), classes).float()


def test_classes_are_counted_one_by_one():
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    ours, theirs = [(labels, scores([0, 1, 1, 1, 1, 0]))], [(labels, scores([0, 0, 1, 1, 0, 2]))]
    told = changes.by_class(ours, theirs, ("ape", "bee"))
    assert told["agreement"] == pytest.approx(3 / 6)
    rows = {row["class"]: row for row in told["classes"]}
    assert list(rows) == ["ape", "bee", "2"]
    assert [rows[name]["n"] for name in rows] == [3, 2, 1]
    assert rows["ape"]["untouched"] == pytest.approx(2 / 3)
    assert rows["ape"]["file"] == pytest.approx(1 / 3)
    assert rows["bee"]["drop"] == pytest.approx(-0.5)
    for row in rows.values():
        assert -1 <= row["low"] <= row["drop"] <= row["high"] <= 1


def test_nothing_is_told_of_what_is_no_classification():
    values = torch.zeros(2)
    assert changes.by_class([(values, torch.zeros(2, 3))], [(values, torch.zeros(2, 3))]) == {}
    labels = torch.tensor([0, 1])
    assert changes.by_class([(labels, torch.zeros(2, 3))], [(torch.tensor([1, 0]), torch.zeros(2, 3))]) == {}, "other samples"
    assert changes.by_class([(None, torch.zeros(2, 3))], [(None, torch.zeros(2, 3))]) == {}


def test_the_interval_of_paired_proportions_covers_the_truth():
    """Drawn from known discordant shares, 95 % of the intervals hold the true difference (Agresti and Min report 0.94 to 0.97)."""
    generator = np.random.default_rng(0)
    lost, won, n, held = 0.10, 0.04, 60, 0
    for _ in range(800):
        cells = generator.multinomial(n, [lost, won, 1 - lost - won])
        low, high = changes.paired_proportions(int(cells[0]), int(cells[1]), n)
        held += low <= lost - won <= high
    assert 0.93 <= held / 800 <= 0.985
    assert changes.paired_proportions(0, 0, 10)[0] < 0 < changes.paired_proportions(0, 0, 10)[1], "no change seen is not no change"


def test_noise_is_the_same_for_every_file_and_as_strong_as_said():
    torch.manual_seed(1)
    batches = [({"x": 3 * torch.randn(64, 50), "ids": torch.arange(64)}, torch.zeros(64)) for _ in range(3)]
    one, two = list(changes.noisy(batches, 0.3, 100)), list(changes.noisy(batches, 0.3, 100))
    assert [len(inputs["x"]) for inputs, _ in one] == [64, 36]
    assert [len(targets) for _, targets in one] == [64, 36]
    for (left, _), (right, _) in zip(one, two, strict=True):
        assert torch.equal(left["x"], right["x"])
        assert left["ids"].dtype == torch.int64
    added = one[0][0]["x"] - batches[0][0]["x"]
    assert float(added.std() / batches[0][0]["x"].std()) == pytest.approx(0.3, rel=0.05)
    assert torch.equal(one[0][0]["ids"], batches[0][0]["ids"])


def test_a_file_that_is_worse_under_noise_is_told_so():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 2, generator=generator)
    labels = (x[:, 0] > 0).long()

    source = SimpleNamespace(
        model=lambda: nn.Linear(2, 2), example_input=lambda: x[:1], data=lambda split: [(x[:128], labels[:128]), (x[128:], labels[128:])]
    )
    task = Task(source, "t")

    def opened(path):
        def run(inputs):
            blurred = inputs[:, 0] if path == "base" else inputs[:, 0] + 4 * inputs[:, 1] * (inputs[:, 0].abs() < 0.5)
            return torch.stack([-blurred, blurred], 1)

        return SimpleNamespace(run=run)

    found = changes.Changes(task, opened, "test", lambda: None)
    rows = found.noise("file", "base")
    assert [row["level"] for row in rows] == list(changes.LEVELS)
    for row in rows:
        assert row["file"] < row["untouched"]
        assert row["drop"] == pytest.approx(row["untouched"] - row["file"])
        assert row["low"] <= row["drop"] <= row["high"]
    assert all(row["drop"] == 0 for row in found.noise("base", "base"))


def test_inputs_without_floating_tensors_are_left_alone():
    ids = torch.zeros(4, 3, dtype=torch.long)
    source = SimpleNamespace(model=lambda: None, example_input=lambda: ids, data=lambda split: [(ids, torch.zeros(4, dtype=torch.long))])
    assert changes.Changes(Task(source, "t"), None, "test", lambda: None).noise("file", "base") == []
