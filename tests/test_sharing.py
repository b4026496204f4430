"""The cache between studies, and what a sweep plans and compares."""

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import studies
from autoslim import comparing, sharing
from autoslim.budget import Budget, Limit
from autoslim.candidate import Candidate, Done, Failed
from autoslim.clock import sha256
from autoslim.errors import UserError
from autoslim.job import Job
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, Step
from autoslim.sharing import Shared
from autoslim.sweep import COLUMNS, Run, plan, row, shares, table

RECIPE = Recipe.of([Step("bits", "a", 8)])
CANDIDATE = Candidate(3, {"bits:a": 8}, RECIPE)


class Files:
    """An executor that writes a file for each candidate and counts."""

    def __init__(self, out):
        self.out, self.slots, self.made, self._ends = out, 2, 0, []

    def prepare(self):
        untouched = Measurement({"metric": Value(0.9), "latency_ms": Value(4.0), "size_bytes": Value(1000)}, {}, {"processor": "one"})
        return SimpleNamespace(untouched=untouched, untouched_sha256="ab", identity={"weights": "w"}, metric_direction="max")

    def attach(self, prepared):
        pass

    def submit(self, candidate):
        self.made += 1
        path = self.out / "candidates" / candidate.recipe.key / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")
        found = Measurement({"metric": Value(0.8), "latency_ms": Value(3.0), "size_bytes": Value(500)})
        self._ends.append((candidate, Done(found, {}, str(path.relative_to(self.out)), sha256(path), candidate.recipe, {}, ("a note",))))

    def outcomes(self, seconds):
        ends, self._ends = self._ends, []
        yield from ends


def study(tmp_path, name, limits=None, change=None):
    """(executor behind the cache, the one it wraps), prepared."""
    out = tmp_path / name
    inner = Files(out)
    job = Job("t", {}, "onnxruntime_cpu", 1, str(out), Budget(limits or {}), ("metric", "latency_ms"), {})
    shared = Shared(inner, job, tmp_path / "cache")
    prepared = shared.prepare()
    if change:
        change(prepared)
    shared.attach(prepared)
    return shared, inner


def evaluate(shared):
    shared.submit(CANDIDATE)
    return next(iter(shared.outcomes(1.0)))


def test_what_one_study_measured_another_takes_over_with_its_file_and_its_own_limits(tmp_path):
    first, made = study(tmp_path, "first")
    assert evaluate(first)[1].notes == ("a note",)
    second, spared = study(tmp_path, "second", {"ms": Limit(2.0, False)})
    candidate, outcome = evaluate(second)
    assert (made.made, spared.made, second.hits) == (1, 0, 1)
    assert candidate is CANDIDATE
    assert outcome.violations == {"ms": 0.5}  # 3 ms / 2 ms - 1
    assert outcome.measurement.get("metric") == 0.8
    assert (tmp_path / "second" / outcome.model_file).read_bytes() == b"weights"
    assert outcome.notes[-1] == "measured by another study of the same cache"


def other_processor(prepared):
    prepared.untouched = replace(prepared.untouched, facts={"processor": "two"})


def other_weights(prepared):
    prepared.identity = {"weights": "v"}


@pytest.mark.parametrize("change", [other_processor, other_weights])
def test_unlike_things_share_nothing(tmp_path, change):
    evaluate(study(tmp_path, "first")[0])
    second, inner = study(tmp_path, "second", change=change)
    evaluate(second)
    assert inner.made == 1


def test_a_file_that_was_changed_is_no_result(tmp_path):
    evaluate(study(tmp_path, "first")[0])
    next((tmp_path / "cache").rglob("model.onnx")).write_bytes(b"Weights")
    second, inner = study(tmp_path, "second")
    evaluate(second)
    assert inner.made == 1


def test_whoever_waits_behind_the_cache_gives_signs_of_life_too(tmp_path):
    shared, inner = study(tmp_path, "first")
    shared.beat = renewed = object()
    assert inner.beat is renewed is shared.beat


def test_a_cache_on_a_full_disk_is_told_and_ends_no_search(tmp_path, monkeypatch):
    shared, inner = study(tmp_path, "first")
    said, copy = [], sharing.shutil.copyfile
    inner.say = said.append

    def full(source, target):
        copy(source, target)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sharing.shutil, "copyfile", full)
    assert evaluate(shared)[1].notes == ("a note",)
    assert said == [f"--cache {tmp_path / 'cache'}: candidate 3 is not kept (No space left on device)"]
    assert not list((tmp_path / "cache").rglob("*.*")), "nothing half is left"


def test_failures_are_not_kept(tmp_path):
    shared, inner = study(tmp_path, "first")
    shared.submit(CANDIDATE)
    inner._ends = [(CANDIDATE, Failed("crash", "killed"))]
    assert list(shared.outcomes(1.0)) == [(CANDIDATE, Failed("crash", "killed"))]
    assert not list((tmp_path / "cache").rglob("outcome.json"))


def test_a_sweep_is_studies_times_targets_times_seeds():
    assert plan(["a.yaml", "digits"], ["0", "1"], ["board"]) == [
        Run("a-board-seed0", ("a.yaml", "--target", "board", "--seed", "0")),
        Run("digits-board-seed0", ("digits", "--target", "board", "--seed", "0")),
        Run("a-board-seed1", ("a.yaml", "--target", "board", "--seed", "1")),
        Run("digits-board-seed1", ("digits", "--target", "board", "--seed", "1")),
    ]
    assert plan(["digits"], [], []) == [Run("digits", ("digits",))]
    with pytest.raises(UserError, match="STUDIES: got 'a' twice"):
        plan(["x/a.yaml", "y/a.yaml"], [], [])


@pytest.mark.parametrize(("slots", "runs", "wanted"), [(8, 2, [4, 4]), (8, 3, [3, 3, 2]), (2, 5, [1, 1]), (1, 3, [1]), (0, 2, [1])])
def test_slots_are_shared_fairly(slots, runs, wanted):
    assert shares(slots, runs) == wanted


def test_the_table_says_what_there_is(tmp_path):
    failed = row(Run("b", ("b",)), tmp_path, 2)
    assert failed["status"] == "failed (2)"
    assert all(failed[name] is None for name in COLUMNS if name not in ("study", "status"))
    summary = Path(tmp_path / "summary.json")
    summary.write_text(
        '{"best": {"metric_test": 0.9, "latency_ratio": 0.51234567, "size_ratio": 0.25}, "closest": null, "hypervolume": {"value": 0.17},'
        ' "evaluations": 8, "verified": 5, "seconds": {"total": 81.4}}'
    )
    lines = table([row(Run("a", ("a",)), tmp_path, 0), failed]).splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert lines[1].split() == ["a", "done", "8", "5", "0.17", "0.9", "0.5123", "0.25", "81.4"]
    assert lines[2].split() == ["b", "failed", "(2)", "-", "-", "-", "-", "-", "-", "-"]


def test_a_sweep_has_one_report_and_compares_like_with_like(tmp_path):
    """Two studies of one task and one of another: all are in the table, only the two stand against each other; a failed run is told."""
    for name, better, task in (("a-seed0", 0.0, "t0"), ("a-seed1", 0.2, "t0"), ("b-seed0", 0.0, "t1")):
        studies.make(tmp_path / name, trials=12, verify=4, better=better, identity={"task": task}, name=name)
    ends = (("a-seed0", "done", 4), ("a-seed1", "done", 4), ("b-seed0", "done", 4), ("c", "failed (2)", None))
    rows = [{**dict.fromkeys(COLUMNS), "study": name, "status": status, "verified": count} for name, status, count in ends]
    text = comparing.write(tmp_path, rows).read_text()
    lines = [line for line in text.splitlines() if line.startswith(("| [", "| c "))][:4]
    assert [line.split("|")[2].strip() for line in lines] == ["done", "done", "done", "failed (2)"]
    assert [line.split("|")[1].strip() for line in lines] == [*(f"[{n}]({n}/report.html)" for n in ("a-seed0", "a-seed1", "b-seed0")), "c"]
    assert [line for line in text.splitlines() if line.startswith("## ")][0] == "## a-seed0, a-seed1"
    assert "## b-seed0" not in text
    assert "a-seed1" in text.partition("## a-seed0, a-seed1")[2]  # the verdict names the faster one
    assert "a-seed1" in (tmp_path / "compare-1.html").read_text()
    assert not (tmp_path / "compare-2.html").exists()
