"""Fixed pipelines: rates by hand after every step, promises of earlier steps kept by later ones, mistakes in one line."""

import json
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from autoslim import application, coverage, search, spec, stepping, yamlfile
from autoslim.cli.main import call
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.metrics import Value

TASK = networks.__file__.replace("networks.py", "tasks/tiny.py")
#: the tiny network: stem 1 -> 16, block 16 -> 16 without bias, both 3x3 on 8x8; batch norm; head 16 -> 4
STEM, BLOCK, HEAD = 144, 2304, 64
PARAMS = STEM + 16 + BLOCK + 32 + HEAD + 4
MACS = 64 * (STEM + BLOCK) + HEAD


def study(folder, steps):
    path = folder / "study.yaml"
    path.write_text(f"# Test.\ntask: {TASK}\nmax_samples: 64\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    return path


def rows(capsys, *words):
    assert call(["steps", *map(str, words), "--json"], False) == 0
    return json.loads(capsys.readouterr().out)


def weights(path):
    return {item.name: numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}


def test_rates_by_hand_and_promises_that_last(tmp_path, capsys):
    steps = [
        "{name: half, techniques: {sparsity: 0.5}}",
        "{name: coded, techniques: {codebook: 4}, layers: [block.conv]}",
        "{name: learn, recovery: {distill_steps: 8, lr: 0.01}}",
        "{name: threshold, techniques: {sparsity: {threshold: 0.05}}}",
        "{name: int8, techniques: {bits: 8}}",
    ]
    found = rows(capsys, study(tmp_path, steps), "--out", tmp_path / "files")
    assert [row["name"] for row in found] == ["untouched", "half", "coded", "learn", "threshold", "int8"]
    assert found[0]["counts"]["dense"] == found[0]["counts"]["compute"] == MACS
    assert PARAMS - 16 - 32 - 4 <= found[0]["counts"]["parameters"] <= PARAMS  # a bias may be zero
    assert all(row["counts"]["time"] > 0 for row in found)
    assert found[0]["rates"]["time"] == 0
    half = STEM // 2 + BLOCK // 2 + HEAD // 2
    assert found[0]["counts"]["parameters"] - found[1]["counts"]["parameters"] == half
    assert found[1]["counts"]["compute"] == MACS / 2
    assert found[1]["rates"]["compute"] == 0.5
    assert found[1]["rates"]["dense"] == 0.0
    for number in (1, 2, 3, 4):
        weight = weights(tmp_path / "files" / f"{number}.onnx")["block.conv.weight"]
        assert np.mean(weight == 0) >= 0.5
        if number >= 2:
            assert max(len(np.unique(row)) for row in weight) <= 17
    zeros = [np.mean(weights(tmp_path / "files" / f"{number}.onnx")["block.conv.weight"] == 0) for number in (3, 4)]
    assert zeros[1] > zeros[0]
    assert any(array.dtype == np.int8 for array in weights(tmp_path / "files" / "5.onnx").values())
    for row in found:
        for name, rate in row["rates"].items():
            assert rate == pytest.approx((found[0]["counts"][name] - row["counts"][name]) / found[0]["counts"][name])
        assert row["counts"]["file"] == (tmp_path / "files" / f"{found.index(row)}.onnx").stat().st_size
    assert any("distillation" in note for note in found[3]["notes"])


def test_a_pipeline_has_the_seed_that_is_told(monkeypatch):
    """What distillations draw follows it: stepping.py hands the evaluator's to recovery.recover."""
    told = []

    def evaluator_of(study, folder):
        told.append(search.job_of(study, Path(folder)).seed)
        raise UserError("enough")

    monkeypatch.setattr(application, "evaluator_of", evaluator_of)
    assert [call(["steps", "iris", *words], False) for words in ([], ["--seed", "3"])] == [2, 2]
    assert told == [0, 3]


@pytest.mark.slow
def test_channels_after_zeros_and_rank_after_bits(tmp_path, capsys):
    steps = [
        "{techniques: {sparsity: 0.5, bits: 8}}",
        "{techniques: {rank: 0.5}, layers: [block.conv]}",
        "{techniques: {channels: 8}, layers: [stem], recovery: {resolve: true}}",
    ]
    found = rows(capsys, study(tmp_path, steps))
    assert [row["name"] for row in found] == ["untouched", "sparsity, bits", "rank", "channels"]
    chain = 16 * 8 + 8 * 8 * 9 + 8 * 16  # Tucker-2 at half the ranks
    assert found[2]["counts"]["dense"] == 64 * (STEM + chain) + HEAD
    assert found[2]["counts"]["compute"] == pytest.approx(64 * (STEM / 2 + chain) + HEAD / 2)
    assert found[3]["counts"]["dense"] == 64 * (72 + 8 * 8 + 8 * 8 * 9 + 8 * 8) + 32
    assert found[3]["counts"]["compute"] < found[3]["counts"]["dense"] - 64 * 20, "zeros of the first step are still there"


@pytest.mark.slow
def test_a_recipe_runs_technique_by_technique(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schema: 1\ntechniques: {bits: {head: 8}, sparsity: {block.conv: 0.75}}\nrecovery: {distill_steps: 4}\n")
    found = rows(capsys, recipe, "--task", TASK, "--max-samples", "64")
    assert [row["name"] for row in found] == ["untouched", "sparsity 0.75 x1", "int8 x1", "recovery"]
    assert found[1]["counts"]["compute"] == MACS - 64 * BLOCK * 0.75
    assert found[3]["counts"]["compute"] == found[1]["counts"]["compute"]


@pytest.mark.slow
def test_the_table_says_what_its_rates_are(tmp_path, capsys):
    own = tmp_path / "task.py"
    own.write_text(Path(TASK).read_text() + "\n\ndef notes():\n    return ['never trained']\n")
    assert call(["steps", str(study(tmp_path, ["{techniques: {depth: true}}"])), "--task", str(own)], False) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1] == "note: untouched: never trained"
    assert text.splitlines()[0].split() == ["step", *stepping.RATES]
    assert f"{1 - (64 * STEM + HEAD) / MACS:.2%}" in text
    assert "(before - after) / before" in text


def test_all_steps_that_do_not_fit_the_network_are_told_before_any_work_with_their_lines(tmp_path, capsys):
    steps = ["{techniques: {sparsity: 2}}", "{techniques: {bits: 8}}", "{techniques: {sparsity: 0.5, bits: 8}, layers: [haed*]}"]
    path = study(tmp_path, steps)
    assert call(["steps", str(path)], False) == 2
    first, *others = capsys.readouterr().err.removeprefix("autoslim: ").splitlines()
    assert first.startswith(f"{path}:5: steps.0.techniques.sparsity is 2, allowed: a share of zeros")
    for told, technique in zip(others, ("sparsity", "bits"), strict=True):
        assert told == f"{path}:7: steps.2.layers is ['haed*'], which matches no unit of {technique}, allowed: globs that do, such as head"


def test_globs_of_a_step_after_one_that_renames_layers_are_looked_at_when_it_is_done():
    structure = coverage.analyse(*networks.ZOO["residual"]())
    later = stepping.Stage("later", {"bits": 8}, ["nolayer"])
    assert stepping.lost([later], structure)
    assert not stepping.lost([stepping.Stage("ranks", {"rank": 0.5}), later], structure)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{techniques: {magic: 1}}", "magic"),
        ("{recovery: {distill_steps: [1, 2]}}", "one value for each key"),
        ("{technique: {bits: 8}}", "technique"),
    ],
)
def test_mistakes_are_told(step, message, tmp_path, capsys):
    assert call(["steps", str(study(tmp_path, [step]))], False) == 2
    assert message in capsys.readouterr().err


def test_a_study_without_steps_is_refused(capsys):
    assert call(["steps", "digits"], False) == 2
    assert "digits: has no steps" in capsys.readouterr().err


def test_shipped_pipelines_are_in_order():
    found = {name for name in yamlfile.shipped("studies") if spec.load_study(name, {}).steps}
    assert {"iris", "resnet50", "digits_steps", "dropped_layers"} <= found


def test_a_file_that_is_slower_for_certain_is_named():
    assert stepping.slower(Value(1.43, 1.38, 1.47)) == [
        "this file is slower than the untouched one: 1.43 of its time; autoslim why FILE tells the kernels"
    ]
    assert stepping.slower(Value(1.02, 0.97, 1.06)) == []
    assert len(stepping.slower(Value(1.2))) == 1


def test_kept_channels_are_told_in_the_originals_own_numbers():
    earlier = {("a", "out"): torch.tensor([1, 3, 5, 7]), ("b", "in"): torch.tensor([0, 2])}
    later = {("a", "out"): torch.tensor([0, 3]), ("c", "out"): torch.tensor([4])}
    found = stepping.composed(earlier, later)
    assert found["a", "out"].tolist() == [1, 7]
    assert found["b", "in"].tolist() == [0, 2]
    assert found["c", "out"].tolist() == [4]


def test_promises_for_layers_that_are_gone_are_dropped():
    layer = torch.nn.Linear(3, 2)
    draft = Draft(torch.nn.Sequential(layer), None, None)
    draft.masks = {"0": torch.ones(4, 3), "gone": torch.ones(1), "0.weight_hh_l0": torch.ones(1)}
    draft.projections = {"gone": lambda weight: weight}
    stepping.settle(draft)
    assert draft.masks["0"].shape == layer.weight.shape
    assert set(draft.masks) == {"0"}
    assert draft.projections == {}


@pytest.mark.slow
def test_iris_as_the_shipped_study_says(capsys):
    found = rows(capsys, "iris")
    assert [row["name"] for row in found] == ["untouched", "prune 50 %", "int8", "distil", "threshold 0.1"]
    assert found[0]["counts"]["drop"] > 0.85
    assert found[1]["rates"]["compute"] == 0.5
    assert found[-1]["rates"]["compute"] > found[1]["rates"]["compute"]
    assert found[-1]["rates"]["packed"] > found[1]["rates"]["packed"] > 0.2
    assert all(row["rates"]["drop"] < 0.15 for row in found)
