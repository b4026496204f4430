"""ladder.py: which files are profiled, in which order, and what counts of their times."""

import dataclasses
from pathlib import Path

import pytest

from autoslim import ladder, offers


def test_every_width_is_a_file_and_the_least_time_of_several_turns_counts(evaluator, monkeypatch):
    """A false clock: a layer takes as many milliseconds as its weight has numbers, integers half of that, and every other turn is twice as slow."""
    turns = []

    def profile(self, path):
        kind, level = Path(path).stem.split("-") if "-" in Path(path).stem else ("float", "0")
        turns.append((kind, int(level)))
        slow = 1 + turns.count(turns[-1]) % 2
        share = 0.5 if evaluator.runtime.bits(path) else 1.0
        return {name: slow * share * rows * columns for name, (rows, columns) in evaluator.runtime.widths(path).items()}

    monkeypatch.setattr(ladder, "profile", profile)
    found = ladder.times(evaluator)
    order = [("float", 0), ("integer", 0), ("float", 1), ("integer", 1)]
    assert turns == [("float", 0), *order * ladder.ROUNDS]
    whole, half = {"stem": 16, "block.conv": 256, "head": 64}, {"stem": 8, "block.conv": 64, "head": 32}
    assert found["float"] == whole
    assert found["ladder"]["float"] == [half]
    assert found["ladder"]["integer"] == [{name: value / 2 for name, value in half.items()}]
    assert found["integer"] == {name: value / 2 for name, value in whole.items()}
    assert not list((evaluator.out / "tables").glob("*.onnx")), "only the untouched file stays"


def test_a_profile_that_knows_no_layers_leaves_it_to_macs(evaluator, monkeypatch):
    monkeypatch.setattr(ladder, "profile", lambda self, path: {"": 1.0, "stem": 0.1})
    found = ladder.times(evaluator)
    macs = evaluator.prepared.structure.layers
    assert "ladder" not in found
    assert found["float"]["stem"] / found["float"]["head"] == pytest.approx(macs["stem"].macs / macs["head"].macs)


@pytest.mark.parametrize(
    ("values", "plain", "others"),
    [
        ([32, 8, {"format": 8, "ranges": "dynamic"}, "w4"], 8, {"format=8 ranges=dynamic": {"format": 8, "ranges": "dynamic"}}),
        ([32, {"format": 8, "ranges": "mse"}], {"format": 8, "ranges": "mse"}, {}),
        ([32, "w4"], None, {}),
    ],
)
def test_every_format_with_integer_kernels_has_a_file_of_its_own(evaluator, monkeypatch, values, plain, others):
    """Whatever stands last among the formats."""
    asked = {}

    def profile(self, path):
        asked[path.stem] = evaluator.runtime.bits(path)
        return dict.fromkeys(("stem", "block.conv", "head"), float(len(asked)))

    told = {"techniques": {"bits": {"values": values, "tie": "none"}}, "freeze": ["stem"], "ties": []}
    space, _ = offers.build(told, evaluator.prepared.structure, {})
    monkeypatch.setattr(ladder, "profile", profile)
    monkeypatch.setattr(evaluator, "prepared", dataclasses.replace(evaluator.prepared, space=space))
    found = ladder.times(evaluator)
    layers = ("block.conv", "head")
    files = {"integer-0": plain} | {f"{label}-0": value for label, value in others.items()}
    assert {name: bits for name, bits in asked.items() if bits} == {
        name: dict.fromkeys(layers, value) for name, value in files.items() if value is not None
    }
    assert bool(found["integer"]) == (plain is not None)
    assert set(found["formats"]) == set(others)
