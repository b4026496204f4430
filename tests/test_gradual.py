"""Gradual sparsity: the schedule of the paper, the share that was asked for, better than cutting at once, masks that move."""

import networks
import pytest
import torch
from networks import noise, seeded

from autoslim import engine, plugins
from autoslim.errors import UserError
from autoslim.inputs import call
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.recovery import gap
from autoslim.techniques import gradual

LAYERS = ("blocks.0.conv1", "blocks.0.conv2", "blocks.1.conv1", "blocks.1.conv2")


def made(technique, value):
    model, samples = seeded(networks.Residual), [noise(32, 3, 8, 8, seed=seed) for seed in range(4)]
    return model, engine.compress(model, Recipe.of(Step(technique, name, value) for name in LAYERS), samples)


def left(model, draft):
    x = noise(64, 3, 8, 8, seed=99)
    with torch.no_grad():
        return float(gap(call(draft.model, x), call(model, x)))


def test_the_schedule_is_cubic():
    assert [gradual.share_at(0.8, at) for at in (0, 0.5, 1, 2)] == pytest.approx([0, 0.8 * (1 - 0.5**3), 0.8, 0.8])


@pytest.mark.parametrize(
    "value", [{"share": 0.9, "steps": 8}, {"share": 0.75, "steps": 20, "regrow": 0.3}, {"share": 0.5, "steps": 1}], ids=repr
)
def test_it_ends_at_the_share_that_was_asked_for(value):
    _, draft = made("gradual", value)
    share = value["share"] if isinstance(value, dict) else value
    for name in LAYERS:
        weight = draft.model.get_submodule(name).weight
        assert int((draft.masks[name] == 0).sum()) == round(share * weight.numel())
        assert bool((weight[draft.masks[name] == 0] == 0).all())
        assert weight.grad is None


@pytest.mark.slow
def test_learning_while_zeros_come_beats_cutting_at_once():
    model, draft = made("gradual", 0.9)
    _, cut = made("sparsity", 0.9)
    assert left(model, draft) < 0.6 * left(model, cut)


def test_masks_that_may_move_differ_from_those_that_may_not():
    _, fixed = made("gradual", {"share": 0.9, "steps": 12})
    _, moved = made("gradual", {"share": 0.9, "steps": 12, "regrow": 0.3})
    assert any(not torch.equal(fixed.masks[name], moved.masks[name]) for name in LAYERS)


def test_what_grows_back_is_what_the_gradient_pulls_at():
    weight = torch.nn.Parameter(torch.tensor([[4.0, 3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0]]))
    weight.grad = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.1, 9.0, 0.2, 0.3]])
    before = torch.tensor([[1.0, 1, 1, 1, 0, 0, 0, 0]])
    mask = gradual.masked(weight, {"share": 0.5, "regrow": 0.9}, 0.999, before)  # hardly any movement is left
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0]]
    mask = gradual.masked(weight, {"share": 0.5, "regrow": 0.9}, 0.6, before)  # one of four moves
    assert mask.tolist() == [[1, 1, 1, 0, 0, 1, 0, 0]]


def test_zeros_of_an_earlier_step_stay():
    model, samples = seeded(networks.Residual), [noise(32, 3, 8, 8)]
    steps = [Step("sparsity", "head", 0.5), Step("gradual", "head", {"share": 0.25, "steps": 5})]
    draft = engine.compress(model, Recipe.of(steps), samples)
    assert int((draft.model.head.weight == 0).sum()) >= model.head.weight.numel() // 2


@pytest.mark.parametrize(
    "wrong", [1.0, {"share": 0.5, "steps": 0}, {"share": 0.5, "lr": 0}, {"share": 0.5, "regrow": 1}, {"steps": 5}], ids=repr
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(UserError, match="gradual of head: got .* allowed: a share of zeros"):
        plugins.load("techniques", "gradual").effective(Unit("head", ("head",)), wrong)
