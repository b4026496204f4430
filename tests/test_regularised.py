"""Regularised training: the lasso's own laws where they can be written down, and a cut that loses less."""

from dataclasses import replace

import networks
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import engine, offers, plugins, spec
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.inputs import call
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.recovery import gap
from autoslim.structure import Group, Member, Structure
from autoslim.techniques import regularised

PLAN = regularised.DEFAULTS | {"steps": 800, "lr": 0.02}


def orthonormal(rows, columns):
    """Inputs whose second moments are the identity, so that the solution of a lasso is a formula. Three axes: outputs are values."""
    x = torch.linalg.qr(noise(rows, columns).double())[0].float() * rows**0.5
    return x[:, None]


def trained(layer, on, strength, groups=None):
    """(weights before, weights after) of one linear layer; its loss is |W - W0|^2 / |W0|^2."""
    x = orthonormal(64, layer.in_features)
    model = nn.Sequential(layer)
    draft = Draft(model, Structure({}, groups or {}, {}), x[:1], [x])
    before = layer.weight.detach().clone()
    with torch.no_grad():
        lessons = [(x, call(model, x))]
    regularised.learn(draft, {"0": PLAN | {"of": on, "strength": strength}}, lessons)
    return before, layer.weight.detach()


def layer_of(rows):
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data.copy_(torch.tensor(rows))
    return layer


def test_l1_is_the_soft_threshold():
    """min |W - W0|^2 / |W0|^2 + s |W|_1 / |W0|_1: each weight shrinks by s |W0|^2 / (2 |W0|_1), and dies below that (Tibshirani, section 2.2)."""
    strength = 0.5
    before, after = trained(layer_of([[2.0, -1.0, 0.3, 0.05], [0.1, -0.2, 1.5, -0.4]]), "weights", strength)
    cut = strength * float(before.square().sum()) / (2 * float(before.abs().sum()))
    expected = before.sign() * (before.abs() - cut).clamp_min(0)
    assert int((expected == 0).sum()) == 4, "the law kills these"
    torch.testing.assert_close(after, expected, rtol=0, atol=0.02)


def test_group_lasso_kills_whole_channels():
    """As above, with the norm of a channel in the place of a weight's size (Yuan & Lin, equation 2.4)."""
    strength = 0.6
    layer = layer_of([[2.0, -1.0, 0.5], [0.2, 0.1, -0.2], [1.0, 1.0, 1.0], [0.3, -0.4, 0.1]])
    group = Group("0", 4, (Member("0", "out", ((0,), (1,), (2,), (3,))),), "test")
    before, after = trained(layer, "channels", strength, {"0": group})
    sizes = before.norm(dim=1)
    cut = strength * float(before.square().sum()) / (2 * float(sizes.sum()))
    expected = before * (1 - cut / sizes).clamp_min(0)[:, None]
    assert [bool(row.any()) for row in expected] == [True, False, True, False], "the law kills two"
    torch.testing.assert_close(after, expected, rtol=0, atol=0.03)


def test_all_that_belongs_to_a_channel_is_pulled():
    """Rows of the layers that write it, scale and shift of its norm, columns of those that read it; not a depthwise reader twice."""
    model, example = networks.ZOO["residual"]()
    group = engine.analyse(model, example).groups["blocks.0.conv1"]
    block = model.blocks[0]
    parts = [
        block.conv1.weight.flatten(1),
        block.bn1.weight[:, None],
        block.bn1.bias[:, None],
        block.conv2.weight.transpose(0, 1).flatten(1),
    ]
    torch.testing.assert_close(regularised.energies(model, group), sum(part.square().sum(1) for part in parts))


def cut_after(technique, steps, share):
    """The gap after a cut of both blocks, with and without regularised training before it."""
    model, batches = seeded(networks.Residual), [noise(32, 3, 8, 8, seed=seed) for seed in range(4)]
    x, found = noise(64, 3, 8, 8, seed=99), []
    names = ("blocks.0.conv1", "blocks.1.conv1")
    for before in ([], steps):
        recipe = Recipe.of([Step(technique, name, share) for name in names] + [Step("regularised", name, value) for name, value in before])
        draft = engine.compress(model, recipe, batches)
        with torch.no_grad():
            found.append(float(gap(call(draft.model, x), call(model, x))))
    return found


@pytest.mark.parametrize(("technique", "on", "share"), [("channels", "channels", 16), ("sparsity", "weights", 0.75)])
def test_a_cut_after_it_loses_less(technique, on, share):
    value = {"strength": 0.3, "of": on, "steps": 120}
    plain, prepared = cut_after(technique, [(f"blocks.{i}.conv1", value) for i in (0, 1)], share)
    assert prepared < 0.8 * plain


def test_it_removes_nothing_itself_and_importance_is_looked_at_anew():
    model, batches = seeded(networks.Residual), [noise(8, 3, 8, 8)]
    draft = engine.compress(model, Recipe.of([Step("regularised", "stem", {"strength": 1.0, "steps": 5})]), batches)
    plain = engine.compress(model, Recipe(), batches)
    assert [draft.masks, draft.kept, draft.replaced] == [{}, {}, set()]
    assert not torch.equal(draft.moments["head"], plain.moments["head"])
    assert all(parameter.grad is None for parameter in draft.model.parameters())


def test_where_no_group_begins_a_pull_on_channels_changes_nothing():
    model, example = networks.ZOO["residual"]()
    units = plugins.load("techniques", "regularised").units(engine.analyse(model, example))
    member = regularised.Member()
    assert member.effective(units["head"], {"strength": 1.0, "of": "channels"}) is None
    assert member.effective(units["blocks.0.conv1"], {"strength": 1, "of": "channels"}) == {"of": "channels", "strength": 1}
    assert member.effective(units["head"], {"strength": 1.0, "of": "weights", "steps": 60}) == 1.0


@pytest.mark.parametrize(
    "wrong", [11, {"strength": 0.1, "of": "rows"}, {"strength": 0.1, "steps": 0}, {"strength": 0.1, "lr": 0}, {"of": "weights"}]
)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(UserError, match="regularised of head: got .* allowed: a strength from 0 up to 10"):
        regularised.Member().effective(Unit("head", ("head",)), wrong)


def test_the_shipped_space_offers_it_beside_the_cut_and_every_knob_of_the_distillation():
    model, example = networks.ZOO["residual"]()
    space, notes = offers.build(spec.load_space("training").model_dump(), engine.analyse(model, example), {})
    found = {domain.name: domain for domain in space.domains}
    assert notes == []
    assert found["regularised:all"].choices == (0.0, "strength=0.1 of=channels")
    assert {unit for unit, _ in found["regularised:all"].effects[1]} >= {"stem", "blocks.0.conv1", "blocks.1.conv1"}
    knobs = {name.removeprefix("recovery:") for name in found if name.startswith("recovery:")}
    assert knobs >= {"optimizer", "schedule", "batch", "weight_decay", "dropout", "temperature", "labels", "hints", "attention"}
    recipe = space.decode(space.uniform(channels=1, regularised=1))
    assert recipe.techniques() == {"channels", "regularised"}
    assert engine.compress(model, recipe, [noise(4, 3, 8, 8)]).kept


def test_a_group_that_a_student_removed_is_left_alone_with_a_note():
    model, batches = seeded(networks.Residual), [noise(4, 3, 8, 8)]
    draft = engine.compress(model, Recipe(), batches)
    draft.structure = replace(draft.structure, groups={name: group for name, group in draft.structure.groups.items() if name != "stem"})
    regularised.Member().apply(draft, {"stem": {"strength": 1.0, "of": "channels", "steps": 1}})
    assert draft.notes[-1] == "regularised: stem left alone, no group of channels begins there any longer"
