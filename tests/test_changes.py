"""Per-class figures, against counts by hand and a published interval."""

import numpy as np
import pytest
import torch

from autoslim import changes


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
