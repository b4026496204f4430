"""What every member of techniques/ owes, on a convolutional, a fully connected and a recurrent network."""

import copy
import math

import networks
import pytest
import torch
from networks import noise

from autoslim import engine, plugins
from autoslim.errors import Untreatable, UserError
from autoslim.inputs import call, shapes
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step

NAMES = plugins.names("techniques")
#: values that no technique may take for good
WRONG = ("wide", -1, math.nan, [], {"no": 1}, 10.5)
LAX = ("channels 10.5", "channels nan")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def samples(example):
    return [noise(4, *example.shape[1:], seed=seed) for seed in (1, 2)]


def offered(member, structure, value):
    """{unit: effective value} of all units, where the value changes anything."""
    found = {name: member.effective(unit, value) for name, unit in member.units(structure).items()}
    return {name: done for name, done in found.items() if done is not None}


def test_the_door_is_not_empty_and_orders_are_distinct():
    orders = [plugins.load("techniques", name).order for name in NAMES]
    assert len(NAMES) >= 6
    assert len(set(orders)) == len(orders)


@pytest.mark.parametrize("name", NAMES)
def test_units_name_only_layers_that_exist(name, tiny):
    _, model, _, structure = tiny
    modules = {module for module, _ in model.named_modules()}
    for key, unit in plugins.load("techniques", name).units(structure).items():
        assert key == unit.name
        assert unit.name in modules
        assert set(unit.layers) <= modules
        assert unit.layers


@pytest.mark.parametrize("name", NAMES)
def test_the_first_value_is_the_identity_and_effective_is_idempotent(name, tiny):
    _, _, _, structure = tiny
    member = plugins.load("techniques", name)
    for unit in member.units(structure).values():
        assert member.effective(unit, member.values[0]) is None
        for value in member.values[1:]:
            done = member.effective(unit, value)
            assert done is None or member.effective(unit, done) == done


def test_effective_is_idempotent_down_to_one_channel():
    member = plugins.load("techniques", "channels", round_to=1)
    unit = Unit("g", ("g",), {"size": 4})
    done = member.effective(unit, 0.25)
    assert done == 1
    assert member.effective(unit, done) == done


@pytest.mark.parametrize("name", NAMES)
def test_no_choices_change_no_bit(name, tiny):
    _, model, example, structure = tiny
    draft = engine.compress(model, Recipe(), samples(example), structure=structure)
    with torch.no_grad():
        plugins.load("techniques", name).apply(draft, {})
    assert draft.model is not model
    assert same(draft.model.state_dict(), model.state_dict())
    assert [draft.masks, draft.bits, draft.kept, draft.replaced] == [{}, {}, {}, set()]


@pytest.mark.parametrize("name", NAMES)
def test_every_value_works_or_says_why_and_spares_the_callers_model(name, tiny):
    net, model, example, structure = tiny
    before, training = copy.deepcopy(model.state_dict()), model.training
    with torch.no_grad():
        expected = shapes(call(model, example))
    member, changed = plugins.load("techniques", name), 0
    for value in member.values[1:]:
        choices = offered(member, structure, value)
        recipe = Recipe.of(Step(name, unit, done) for unit, done in choices.items())
        draft, said = None, ""
        try:
            draft = engine.compress(model, recipe, samples(example), structure=structure)
        except Untreatable as error:
            said = str(error)
        assert draft is not None or said.startswith(f"{name}: ")
        if draft is not None:
            with torch.no_grad():
                assert shapes(call(draft.model, example)) == expected
            untouched = same(draft.model.state_dict(), model.state_dict()) and not draft.bits
            assert untouched is (not choices)
            changed += not untouched
        assert same(model.state_dict(), before)
        assert model.training is training
    if net == ("attention" if name == "heads" else "residual"):
        assert changed == len(member.values) - 1, "some network is changed by every value of every technique"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_recipe_makes_the_same_model(name, tiny):
    _, model, example, structure = tiny
    member = plugins.load("techniques", name)
    recipe = Recipe.of(Step(name, unit, done) for unit, done in offered(member, structure, member.values[-1]).items())
    one, other = (engine.compress(model, recipe, samples(example), structure=structure) for _ in range(2))
    assert same(one.model.state_dict(), other.model.state_dict())


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_value_is_refused_with_its_unit(name, wrong, request):
    unit = Unit("" if name == "student" else "body.conv", ("body.conv",), {"size": 32})
    with pytest.raises(UserError, match=name) as caught:
        plugins.load("techniques", name).effective(unit, wrong)
    assert unit.name in str(caught.value)
    assert "allowed" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_another_network_is_untreatable(name, tiny):
    _, model, example, structure = tiny
    value = plugins.load("techniques", name).values[-1]
    with pytest.raises(Untreatable, match=f"{name}: this model has no unit 'elsewhere'"):
        engine.compress(model, Recipe.of([Step(name, "elsewhere", value)]), samples(example), structure=structure)


@pytest.mark.parametrize(("technique", "value"), [("bits", 4), ("channels", "half"), ("sparsity", 2.0), ("rank", 7)])
def test_a_wrong_value_in_a_recipe_written_by_hand_is_refused(technique, value):
    model, example = networks.ZOO["residual"]()
    with pytest.raises(UserError, match=technique):
        engine.compress(model, Recipe.of([Step(technique, "blocks.0.conv1", value)]), samples(example))


def test_all_techniques_together_still_run(tiny):
    net, model, example, structure = tiny
    steps = []
    for name in set(NAMES) - {"student"}:
        member = plugins.load("techniques", name)
        choices = offered(member, structure, member.values[1])
        if name == "depth":
            choices = dict(list(choices.items())[:1])
        steps += [Step(name, unit, done) for unit, done in choices.items()]
    gone = {step.unit for step in steps if step.technique == "depth"}
    steps = [step for step in steps if step.technique == "depth" or not any(step.unit.startswith(f"{block}.") for block in gone)]
    draft = engine.compress(model, Recipe.of(steps), samples(example), structure=structure)
    assert sum(p.numel() for p in draft.model.parameters()) < sum(p.numel() for p in model.parameters()), net
    assert draft.bits
    assert draft.masks


def test_a_student_builder_replaces_the_whole_model(tiny):
    _, model, example, structure = tiny
    recipe = Recipe.of([Step("student", "", {"builder": "twin"})])
    twin = copy.deepcopy(model)
    draft = engine.compress(model, recipe, samples(example), structure=structure, students={"twin": lambda: twin})
    assert draft.model is twin
    with pytest.raises(UserError, match="builder is 'twin', allowed: other"):
        engine.compress(model, recipe, samples(example), structure=structure, students={"other": lambda: twin})
