"""warming.py: what one study hands on to another."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from autoslim import warming
from autoslim.space import Domain, SearchSpace

HERE = Path(__file__).parent
TASK, PLAIN = (str(HERE / "tasks" / name) for name in ("tiny.py", "plain.yaml"))


def space(**choices):
    return SearchSpace(tuple(Domain(name, name.split("_")[0], values, tuple(() for _ in values)) for name, values in choices.items()), {})


def test_a_point_is_carried_over_by_names_and_choices():
    here = space(channels_a=(1.0, 0.5), bits_a=(32, 8))
    assert warming.translated({"channels_a": 0.5, "bits_a": 8}, here) == {"channels_a": 0.5, "bits_a": 8}
    assert warming.translated({"channels_a": 0.5}, here) == {"channels_a": 0.5, "bits_a": 32}, "what it does not say stays untouched"
    assert warming.translated({"channels_a": 0.25, "bits_a": 8}, here) is None, "a choice that is not offered"
    assert warming.translated({"channels_a": 0.5, "rank_a": 4}, here) is None, "a decision that is not there"
    assert warming.translated({"channels_a": 0.5, "recovery:distill_steps": 50}, here) is not None


def test_times_of_another_device_are_its_own():
    times = {"float": {"a": 2.0, "b": 4.0, "c": 1.0}, "integer": {"a": 1.0, "b": 1.0}}
    assert warming.slowed([0.7, 1.0, 0.6], ["a", "b", "c"], times) == [0.5, 1.0, 1.0], "b stays float, c has no integer kernel here"


def autoslim(*words):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_a_finished_study_seeds_another_budget(tmp_path):
    """The front of the first is measured first in the second, whose single choices are not measured again."""
    common = ("--task", TASK, "--space", PLAIN, "--trials", 9, "--verify", 2)
    first = autoslim("search", *common, "--budget-ms", 1000, "--out", tmp_path / "a")
    assert first.returncode == 0, first.stderr
    second = autoslim("search", *common, "--budget-mb", "90%", "--warm-start", tmp_path / "a", "--out", tmp_path / "b")
    assert second.returncode == 0, second.stderr
    said = second.stdout + second.stderr
    assert "warm start: single choices are those of" in said
    assert "measuring single choices" not in said
    asked = {}
    for name in "ab":
        with (tmp_path / name / "trials.csv").open(newline="") as file:
            asked[name] = list(csv.DictReader(file))
    known = {row["point"] for row in asked["a"] if row["end"] == "done"}
    labelled = sum(bool(row["label"]) for row in asked["b"])
    assert asked["b"][labelled]["point"] in known
    assert f"points of the front of {tmp_path / 'a'} are measured first" in said


def test_no_study_to_start_from_is_one_line(tmp_path):
    done = autoslim("search", "--task", TASK, "--space", PLAIN, "--trials", 2, "--warm-start", tmp_path / "none", "--out", tmp_path / "x")
    assert done.returncode == 2
    assert "no study" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
