"""crossvalidating.py: folds hold back every sample once, the rule that chooses, and the command on real files."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autoslim import crossvalidating, pool, recovery
from autoslim.application import evaluator_of
from autoslim.errors import UserError
from autoslim.lessons import Lesson
from autoslim.pool import Pool
from autoslim.recipe import Recipe, Step
from autoslim.spec import load_study
from autoslim.study import Study

TASK = str(Path(__file__).parent / "tasks" / "tiny.py")


def numbers(lessons):
    return [int(value) for lesson in lessons for value in lesson.targets]


def test_every_sample_is_held_back_once_and_never_learnt_from_then():
    values = torch.arange(200)
    parts = crossvalidating.splits(Pool(Lesson(values.float()[:, None], values.float()[:, None], values), 200), 3, 0)
    assert sorted(number for part in parts for number in numbers(part.back)) == list(range(200))
    for part in parts:
        back, learnt, held, lessons = (set(numbers(some)) for some in (part.back, [part.learnt], part.held, part.lessons))
        assert not back & (learnt | held | lessons)
        assert not held & learnt
        assert lessons <= learnt
        assert len(back) + len(learnt) + len(held) == 200


def test_too_few_samples_are_told():
    values = torch.arange(70)
    with pytest.raises(UserError, match="--folds: got 3, allowed: 2 to 2, since the train split has 70 samples"):
        crossvalidating.splits(Pool(Lesson(values, values, values), 70), 3, 0)


def row(key, mean, error, cost):
    return {"key": key, "metric_mean": mean, "metric_error": error, "cost": cost}


def test_the_cheapest_within_one_standard_error_of_the_best_mean_is_chosen():
    rows = [row("a", 0.90, 0.01, 0.5), row("b", 0.895, 0.02, 0.3), row("c", 0.88, 0.02, 0.1)]
    assert crossvalidating.choose(rows, "max") == "b"
    assert crossvalidating.choose([row("a", 0.90, 0.001, 0.5), *rows[1:]], "max") == "a"
    assert crossvalidating.choose([row("a", 3.0, 0.1, 0.5), row("b", 2.0, 0.1, 0.9)], "min") == "b"
    assert crossvalidating.choose([row("a", 0.9, 0.0, 0.5), row("b", 0.9, 0.0, 0.4)], "max") == "b"


def test_a_fold_is_judged_on_the_file_that_was_made_without_it(tmp_path, monkeypatch):
    evaluator = evaluator_of(load_study(None, {"task": TASK}), str(tmp_path))
    whole = pool.build(evaluator.model, evaluator.task.batches("train"), 1000, "none", lambda: None)
    part = crossvalidating.splits(whole, 2, 0)[0]
    seen = []
    real = crossvalidating.recover

    def watched(draft, teacher, lessons, held, settings, **more):
        seen.extend([*lessons, *held, more["pool"].whole])
        return real(draft, teacher, lessons, held, settings, **more)

    monkeypatch.setattr(crossvalidating, "recover", watched)
    bits = [Step("bits", name, 8) for name in ("stem", "block.conv", "head")]
    recipe = Recipe.of([Step("student", "", {"width": 0.5}), *bits], {"distill_steps": 4, "samples": 90, "views": "shift"})
    metric, gap = crossvalidating.judge(evaluator, recipe, part, tmp_path)
    back = torch.cat([lesson.inputs for lesson in part.back])
    learnt = torch.cat([lesson.inputs for lesson in seen])
    assert not any((learnt == image).flatten(1).all(1).any() for image in back)
    session = evaluator.runtime.open(tmp_path / "model.onnx", 1)
    assert set(evaluator.runtime.bits(tmp_path / "model.onnx").values()) == {8}
    right = (session.run(back).argmax(1) == torch.cat([lesson.targets for lesson in part.back])).double().mean()
    assert metric == pytest.approx(float(right))
    assert gap == pytest.approx(float(recovery.gap(session.run(back), torch.cat([lesson.outputs for lesson in part.back]))), rel=1e-3)


@pytest.mark.slow
def test_the_command_judges_the_files_of_recipes_on_folds_that_they_have_not_seen(tmp_path):
    space, out = tmp_path / "space.yaml", tmp_path / "out"
    space.write_text(
        "techniques:\n  student: {values: {width: [1.0, 0.5], early: [false, true]}}\n  bits: {values: [32, 8], tie: all}\n"
        "recovery: {distill_steps: 8, samples: 96}\n"
    )
    words = [
        "search",
        "--task",
        TASK,
        "--space",
        space,
        "--trials",
        6,
        "--strategy",
        "halving",
        "--max-drop",
        "90pp",
        "--verify",
        2,
        "--out",
        out,
        "-q",
    ]
    done = autoslim(*words)
    assert done.returncode == 0, done.stderr
    before = Study.read(out).entries()
    with (out / "front.csv").open(newline="") as file:
        [rival] = [row for row in csv.DictReader(file) if row["outside"] == "True"]
    assert rival["label"] == "uniform-channels-0.5", "a space of students has no channels"
    assert (out / rival["model_file"]).stat().st_size == int(rival["size_bytes"])
    assert rival["key"] not in {entry.key for entry in before}
    done = autoslim("crossvalidate", out, "--folds", 2, "--best", 3)
    assert done.returncode == 0, done.stderr
    assert Study.read(out).entries() == before, "the study's own trials stay as they were"
    with (out / "folds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 1 <= len(rows) <= 3
    assert [one["chosen"] for one in rows].count("True") == 1
    for one in rows:
        found = [float(value) for value in one["metrics"].split()]
        assert len(found) == 2
        assert sum(found) / 2 == pytest.approx(float(one["metric_mean"]), abs=1e-5)
        assert all(0 <= value <= 1 for value in found)
    assert [float(one["cost"]) for one in rows] == sorted(float(one["cost"]) for one in rows)
    assert done.stdout.count("*") == 2


def autoslim(*words):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, timeout=300, check=False)


def test_a_pool_of_what_is_left_is_what_a_fold_learns_from():
    values = torch.arange(128).float().view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    whole = pool.build(torch.nn.Identity(), [(values, torch.arange(128))], 128, "none", lambda: None)
    part = crossvalidating.splits(whole, 2, 0)[0]
    more = pool.build(torch.nn.Identity(), [(part.learnt.inputs, part.learnt.targets)], 150, "shift", lambda: None)
    assert not set(more.whole.targets.tolist()) & set(numbers(part.back))
