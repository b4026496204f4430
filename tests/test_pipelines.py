"""The shipped pipelines, whole on iris and in small for the rest: every step runs, and its rates are told from the shipped file."""

import json
from pathlib import Path

import pytest

from autoslim import spec, stepping
from autoslim.application import evaluator_of
from autoslim.cli.main import call

TASKS = Path(__file__).parent / "tasks"
SMALL = str(TASKS / "small.py")
#: study -> (task, its arguments, the block that is dropped)
PIPELINES = {
    "resnet50": (str(TASKS / "tiny.py"), {}, None),
    "digits_steps": (str(TASKS / "tiny.py"), {}, None),
    "bert": (SMALL, {"network": "encoder"}, None),
    "speech": (SMALL, {"network": "speech"}, None),
    "dropped_layers": (str(TASKS / "tiny.py"), {}, "block"),
    "dropped_layers_bert": (SMALL, {"network": "encoder"}, "layers.1"),
    "dropped_layers_speech": (SMALL, {"network": "transformer"}, "layers.1"),
}


@pytest.mark.slow
def test_iris_runs_to_its_end(capsys):
    assert call(["steps", "iris", "--json"], False) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["untouched", "prune 50 %", "int8", "distil", "threshold 0.1"]
    half = rows[1]["rates"]
    assert half["compute"] == pytest.approx(0.5, abs=0.01)
    assert rows[-1]["rates"]["parameters"] >= half["parameters"]
    assert rows[-1]["rates"]["drop"] < 0.1, "half of the weights of iris are not needed"


def shorter(recovery):
    """The same recovery with less learning."""
    return recovery and {**recovery, "distill_steps": min(5, recovery.get("distill_steps", 0))}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PIPELINES))
def test_a_shipped_pipeline_in_small(name, tmp_path):
    source, args, block = PIPELINES[name]
    told = spec.load_study(name, {})
    study = told.model_copy(update={"task": source, "task_args": args, "max_samples": 64, "threads": 1})
    stages = [
        stepping.Stage(step.name, step.techniques, [block] if "depth" in step.techniques else step.layers, shorter(step.recovery))
        for step in told.steps
    ]
    rows = list(stepping.run(evaluator_of(study, str(tmp_path)), stages))
    assert [row.name for row in rows[1:]] == [step.name for step in told.steps]
    for row in rows:
        for key, rate in row.rates.items():
            if rows[0].counts[key]:
                assert rate == pytest.approx((rows[0].counts[key] - row.counts[key]) / rows[0].counts[key])
    assert rows[1].rates["parameters"] > 0.05, "zeros are no parameters"
    assert rows[-1].counts["parameters"] < rows[0].counts["parameters"]
    if block:
        assert rows[2].counts["dense"] < rows[1].counts["dense"]


def test_every_pipeline_that_is_shipped_is_tested_here():
    from autoslim import yamlfile

    assert {name for name in yamlfile.shipped("studies") if spec.load_study(name, {}).steps} == {*PIPELINES, "iris"}
