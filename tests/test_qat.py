"""Quantisation-aware training: levels of the paper's formulas, found again in the file, and better than rounding a trained network."""

import functools

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from autoslim import coverage, engine, optimizing, plugins
from autoslim.errors import UserError
from autoslim.inputs import call
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.recovery import gap
from autoslim.techniques import qat

RUNTIME = "onnxruntime_cpu"


@functools.cache
def digits():
    """(a small network trained on the digits of scikit-learn, train inputs, other inputs)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.tensor(bunch.data / 16, dtype=torch.float32), torch.tensor(bunch.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 10))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:1200]), y[:1200]).backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.eval(), x[:1200], x[1200:]


def shipped(technique, value, folder):
    """(draft, file, gap of the file's outputs to the network's on other inputs)."""
    model, learnt, held = digits()
    samples = list(learnt.split(100))
    structure, runtime = coverage.analyse(model, learnt[:1]), plugins.load("runtimes", RUNTIME)
    recipe = Recipe.of(Step(technique, unit, value) for unit in plugins.load("techniques", technique).units(structure))
    draft = engine.compress(model, recipe, samples, structure=structure)
    base, path = folder / "base.onnx", folder / f"{technique}.onnx"
    runtime.export(draft, learnt[:1], [], base)
    runtime.finish(draft, base, samples, path)
    with torch.no_grad():
        return draft, path, float(gap(runtime.open(path, 1).run(held), call(model, held)))


@pytest.mark.slow
def test_a_network_that_learnt_its_levels_is_nearer_than_one_that_was_rounded(tmp_path):
    _, _, nearest = shipped("bits", {"format": "w4a8", "rounding": "nearest"}, tmp_path)
    _, _, compensated = shipped("bits", "w4a8", tmp_path)
    _, _, learnt = shipped("qat", {"format": "w4a8", "steps": 600}, tmp_path)
    assert learnt < 0.8 * nearest
    assert learnt < compensated, "GPTQ looks at the same inputs"


@pytest.mark.parametrize("value", ["w4", "w4a8"])
def test_the_file_holds_the_integers_that_were_learnt(value, tmp_path):
    draft, path, _ = shipped("qat", {"format": value, "steps": 20}, tmp_path)
    stored = {item.name: numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}
    for name in ("2", "4"):  # twelve inputs are no multiple of a block: a step per output
        weight = draft.model.get_submodule(name).weight.detach()
        whole = torch.tensor(stored[f"{name}.weight_int4"].astype(float).reshape(len(weight), -1))
        step = (weight * whole).sum(1, keepdim=True) / whole.square().sum(1, keepdim=True).clamp_min(1)
        assert torch.allclose((whole * step).float(), weight, atol=2e-4), "the integers, times one step, are the weight"
        assert all(1 < len(row.unique()) <= 15 for row in weight)


def test_the_gradient_of_a_step_is_that_of_the_paper():
    """Inside the range round(w/s) - w/s, beyond it the outermost level (LSQ, equation 3)."""
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0.33, -0.5, 0.9]])
    levels = qat.Levels(layer, "w4a8", False)
    step = 0.8 / 7
    levels.steps.data.fill_(step)
    levels(layer.weight).sum().backward()
    exact = layer.weight.detach()[0] / step
    parts = torch.where(exact.abs() > 7, 7 * exact.sign(), exact.round() - exact)
    assert levels.steps.grad.item() == pytest.approx(float(parts.sum()), rel=1e-4)
    assert torch.equal(layer.weight.grad, (exact.abs() <= 7).float()[None]), "straight through inside the range, nothing beyond"


def test_weights_stay_on_their_levels_while_recovery_learns(tmp_path):
    draft, _, _ = shipped("qat", {"format": "w4a8", "steps": 3}, tmp_path)
    weight = draft.model.get_submodule("2").weight
    before = weight.detach().clone()
    draft.constrain(draft.model)
    assert torch.allclose(weight, before, atol=1e-6)
    weight.data.add_(0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    draft.constrain(draft.model)
    assert max(len(row.unique()) for row in weight) <= 15


def test_zeros_of_a_sparse_layer_stay_zero():
    model, learnt, _ = digits()
    recipe = Recipe.of([Step("sparsity", "0", 0.5), Step("qat", "0", {"format": 8, "steps": 5})])
    weight = engine.compress(model, recipe, [learnt[:64]]).model.get_submodule("0").weight
    assert float((weight == 0).float().mean()) >= 0.5


def test_widths_fall_by_the_schedule_and_end_at_the_formats_own(tmp_path, monkeypatch):
    seen, widen = [], qat.Levels.widen

    def watched(self, weight, bits):
        seen.append(bits)
        widen(self, weight, bits)

    monkeypatch.setattr(qat.Levels, "widen", watched)
    draft, path, _ = shipped("qat", {"format": "w4a8", "schedule": [8, 6], "steps": 30}, tmp_path)
    layers = len(draft.bits)
    assert seen == [4] * layers + [8] * layers + [6] * layers + [4] * layers
    for name in ("2", "4"):  # a step per output
        assert all(1 < len(row.unique()) <= 15 for row in draft.model.get_submodule(name).weight.detach())
    assert {"format": "w4a8", "rounding": "nearest", "equalise": "never"} in draft.bits.values()


def test_each_width_has_an_equal_part_of_the_steps():
    assert [qat.width_at([8, 6], 4, step, 9) for step in range(9)] == [8, 8, 8, 6, 6, 6, 4, 4, 4]
    assert [qat.width_at([], 4, step, 2) for step in range(2)] == [4, 4]
    assert qat.width_at([8, 6], 4, 2, 3) == 4, "one step is enough for each"


def test_only_a_state_at_the_final_width_is_kept():
    """With the first width's levels everything is nearer to the network, but that is not what is shipped."""
    model, learnt, _ = digits()
    recipe = Recipe.of([Step("qat", "2", {"format": "w4a8", "schedule": [8], "steps": 40})])
    weight = engine.compress(model, recipe, list(learnt.split(400))).model.get_submodule("2").weight
    assert max(len(row.unique()) for row in weight) <= 15
    assert weight.abs().max() > 0.6 * model[2].weight.abs().max(), "steps of eight bits with levels of four would clip nearly all"


@pytest.mark.parametrize("schedule", [[6, 8], [4], [9, 6], [8, 8], [True], "8, 6", [8, 7, 6, 5]])
def test_schedules_that_do_not_fall_to_the_format_are_refused(schedule):
    with pytest.raises(UserError, match=r"qat of a: got .*falling bit-widths above the format's"):
        qat.Member().effective(Unit("a", ("a",)), {"format": "w4a8", "schedule": schedule, "steps": 4})


def test_a_schedule_stands_in_the_recipe_and_an_empty_one_does_not():
    member = qat.Member()
    value = {"format": "w4a8", "schedule": [8, 6], "steps": 60}
    assert member.effective(Unit("a", ("a",)), value) == {"format": "w4a8", "schedule": [8, 6]}
    assert member.effective(Unit("a", ("a",)), {"format": "w4a8", "schedule": []}) == "w4a8"


@pytest.mark.parametrize("value", [16, "w3", {"format": 8, "steps": 0}, {"format": 8, "lr": 0}, {"steps": 3}])
def test_values_that_make_no_sense_are_refused(value):
    with pytest.raises(UserError, match=r"qat of a: got .*, allowed: 32, 8, w8, w4, w4a8"):
        qat.Member().effective(Unit("a", ("a",)), value)


def test_steps_that_become_larger_learn_as_fast_for_their_size():
    parameter, other = torch.nn.Parameter(torch.full((3,), 0.1)), torch.nn.Parameter(torch.ones(2))
    optimizer = optimizing.relative([parameter, other], 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for step in range(4):
        if step == 2:
            parameter.data.mul_(18)
            optimizing.rescale(optimizer, schedule, parameter, 18.0)
            assert parameter not in optimizer.state
        (parameter.sum() + other.sum()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    mine, its = (group["lr"] for group in optimizer.param_groups)
    assert mine / its == pytest.approx(1.8)
