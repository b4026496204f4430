"""evaluator.py on a task whose own code goes wrong: one candidate ends with its reason, and an untouched model ends the run."""

import json
import math
from dataclasses import replace

import pytest

from autoslim import task
from autoslim.budget import Budget, Drop
from autoslim.candidate import Candidate, Done, Failed, Rejected
from autoslim.errors import UserError
from autoslim.evaluator import Evaluator
from autoslim.job import Job
from autoslim.recipe import Recipe, Step

NETWORK = """
import torch
from torch import nn


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def example_input():
    return torch.zeros(1, 8)
"""
#: the labels are the network's own outputs; ``judge`` sees how far a file is from them
TASK = (
    NETWORK
    + """

METRICS = {"closeness": "max", "ratio": "max"}


def data(split):
    net = model()
    for seed in range(2):
        x = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed + 10 * len(split)))
        with torch.no_grad():
            yield x, net(x)


def evaluate(predict, batches):
    off = max(float((predict(x) - y).abs().max()) for x, y in batches)
    return {"closeness": judge(off), "ratio": 1 / off if off > 1e-3 else float("nan")}


def judge(off):
    return JUDGE
"""
)
NARROW = Recipe.of([Step("channels", "0", 16)], {"distill_steps": 0})


def evaluator(folder, judge):
    """An evaluator of the task above, its verdict an expression of ``off``."""
    return evaluator_of(folder / "close.py", TASK.replace("JUDGE", judge))


def evaluator_of(path, text, limits=None):
    """An evaluator of a task of that text, by the runtime that exports fastest."""
    path.write_text(text)
    space, out = {"techniques": {"channels": {"values": [1.0, 0.5]}}}, str(path.parent / "out")
    job = Job(str(path), {}, "torch_eager", 1, out, limits or Budget({}), ("metric", "size_bytes"), space, timing_seconds=0.01)
    return Evaluator(job, task.load(str(path)))


def narrow(made):
    return made.evaluate(Candidate(1, {}, NARROW))


@pytest.mark.parametrize("verdict", ["nan", "inf"])
def test_a_candidate_whose_metric_is_no_finite_number_fails_with_that_reason(tmp_path, verdict):
    made = evaluator(tmp_path, f"1.0 if off < 1e-3 else float('{verdict}')")
    prepared = made.prepare()
    assert prepared.untouched.get("metric") == 1.0
    end = narrow(made)
    assert isinstance(end, Failed)
    assert end.reason == "metric"
    assert f"task close: closeness on 'val' is {verdict}, expected a finite number" in end.detail
    assert "evaluate()" in end.detail


def test_a_further_metric_that_is_no_finite_number_is_left_empty(tmp_path):
    made = evaluator(tmp_path, "1 / (1 + off)")
    untouched, end = made.prepare().untouched, narrow(made)
    assert untouched.others == {}, "its ratio is nan"
    assert isinstance(end, Done)
    assert math.isfinite(end.measurement.others["ratio"])
    json.dumps([untouched.as_dict(), end.measurement.as_dict()], allow_nan=False)


def test_an_untouched_model_without_a_finite_metric_ends_the_run(tmp_path):
    with pytest.raises(UserError, match="task close: closeness on 'val' is nan, expected a finite number") as caught:
        evaluator(tmp_path, "float('nan')").prepare()
    assert "\n" not in str(caught.value)


# -- the task's own code raises ---------------------------------------------------------------------------------------------


def test_a_split_that_cannot_be_read_is_told_before_any_work(tmp_path):
    made = evaluator(tmp_path, "1.0")
    whole = made.task._source.data
    for split in ("train", "val", "test"):

        def data(name, broken=split):
            if name == broken:
                raise OSError("the disk is away")
            return whole(name)

        made.task._source.data = data
        with pytest.raises(UserError, match=rf"task close: data\('{split}'\) raised OSError: the disk is away"):
            made.prepare()
        assert made.prepared is None
        assert not list(tmp_path.rglob("model.*")), "nothing was exported"


def test_what_the_metric_raises_is_named_with_its_line_and_ends_one_candidate(tmp_path):
    made = evaluator(tmp_path, "1.0 if off < 1e-3 else [][3]")
    made.prepare()
    end = narrow(made)
    line = 1 + (tmp_path / "close.py").read_text().split("\n").index("    return 1.0 if off < 1e-3 else [][3]")
    assert (type(end), end.reason) == (Failed, "error")
    assert end.detail == f"task close: evaluate() raised IndexError: list index out of range, line {line} of close.py"


def test_on_the_untouched_model_it_ends_the_run(tmp_path):
    with pytest.raises(UserError, match=r"task close: evaluate\(\) raised ZeroDivisionError: .*, line \d+ of close.py") as caught:
        evaluator(tmp_path, "1 / 0").prepare()
    assert "\n" not in str(caught.value)


# -- the first look at validation data ---------------------------------------------------------------------------------------

UNEVEN = (
    NETWORK
    + """

def data(split):
    net = model()
    for number in range(8):
        x = torch.randn(50, 8, generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            labels = net(x).argmax(1)
        yield x, (labels + 1) % 4 if number < 2 else labels  # what comes first is labelled wrongly
"""
)


def test_a_first_look_holds_candidates_against_the_untouched_file_on_the_same_samples(tmp_path):
    made = evaluator_of(tmp_path / "uneven.py", UNEVEN, Budget({}, Drop(0.05, relative=False)))
    assert made.prepare().untouched.get("metric") == 0.75
    assert next(iter(made.part_base.values.values())) == 0.0, "of the first quarter all labels are wrong"
    whole = made.evaluate(Candidate(1, {}, Recipe()))
    assert isinstance(whole, Done), "lossless, whatever its first quarter scores"
    made.task._source.data = lambda split, data=made.task._source.data: reversed(list(data(split)))
    del made.part_base
    cut = made.evaluate(Candidate(2, {}, Recipe.of([Step("channels", "0", 1)], {"distill_steps": 0, "resolve": False, "bias": False})))
    assert isinstance(cut, Rejected)
    assert cut.rung == "quick"
    metric = cut.measurement.get("metric")
    assert cut.violations["max_drop"] == pytest.approx((1.0 - metric - 0.05) / 0.05), "against 1.0, the untouched file's on that part"


# -- a task that does not fit together ---------------------------------------------------------------------------------------


def test_a_batch_of_another_shape_than_the_example_s_is_the_task_s_mistake(tmp_path):
    wide = UNEVEN.replace("yield x,", "yield (x if number < 6 else x[:, :7]),")
    with pytest.raises(UserError, match=r"task uneven: the untouched file does not run on all batches of data\('val'\)") as caught:
        evaluator_of(tmp_path / "uneven.py", wide).prepare()
    assert "\n" not in str(caught.value)


def test_an_example_that_the_network_does_not_take_is_the_task_s_mistake(tmp_path):
    made = evaluator_of(tmp_path / "uneven.py", UNEVEN.replace("torch.zeros(1, 8)", "torch.zeros(1, 9)"))
    with pytest.raises(UserError, match=r"task uneven: the model on example_input\(\) raised RuntimeError: mat1 and mat2"):
        made.prepare()


def test_a_task_that_was_refused_is_mended_and_begun_in_the_same_folder_and_another_one_is_not(tmp_path):
    with pytest.raises(UserError, match="ZeroDivisionError"):
        evaluator(tmp_path, "1 / 0").prepare()
    evaluator(tmp_path, "1 / (1 + off)").prepare()
    evaluator(tmp_path, "1 / (1 + off)").prepare()
    with pytest.raises(UserError, match="begun with another task; results of unlike things do not mix"):
        evaluator(tmp_path, "1 / (2 + off)").prepare()


@pytest.mark.parametrize(("objectives", "offered"), [(("metric", "latency_ms"), False), (("metric", "latency_ms", "size_bytes"), True)])
def test_a_study_of_time_alone_is_not_offered_what_only_saves_bytes(tmp_path, objectives, offered):
    made = evaluator(tmp_path, "1.0")
    space = {"techniques": {"channels": {"values": [1.0, 0.5]}, "sparsity": {"values": [0.0, 0.5]}}}
    made.job = replace(made.job, objectives=objectives, space=space)
    prepared = made.prepare()
    assert any(domain.technique == "sparsity" for domain in prepared.space.domains) is offered
    assert any("sparsity: 0.5 left out: time is the only cost" in note for note in prepared.notes) is not offered
