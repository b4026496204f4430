"""What every member of rankings/ owes, on every tiny network: scores, the same ones again, of a model that stays as it is."""

import copy

import pytest
import torch
from networks import noise

from autoslim import coverage, engine, plugins
from autoslim.inputs import call, shapes
from autoslim.recipe import Recipe, Step

NAMES = plugins.names("rankings")


def drafted(tiny):
    _, model, example, structure = tiny
    return engine.compress(model, Recipe(), [noise(4, *example.shape[1:], seed=seed) for seed in (1, 2)], structure=structure)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_numbers_of_every_channel_and_the_same_again(name, tiny):
    draft, member = drafted(tiny), plugins.load("rankings", name)
    before = copy.deepcopy(draft.model.state_dict())
    one, other = (member.scores(draft, draft.structure.groups) for _ in range(2))
    assert set(one) <= set(draft.structure.groups)
    for group, scores in one.items():
        if scores is not None:
            assert scores.shape == (draft.structure.groups[group].size,)
            assert scores.dtype == torch.float64
            assert bool((scores >= 0).all())
            assert torch.equal(scores, other[group])
    assert all(torch.equal(value, before[key]) for key, value in draft.model.state_dict().items())
    assert not any(value.grad is not None for value in draft.model.parameters())


@pytest.mark.parametrize("scope", ["group", "isomorphic", "global"])
@pytest.mark.parametrize("name", NAMES)
def test_channels_and_heads_go_by_it(name, scope, tiny):
    net, model, example, structure = tiny
    keep = 0.5
    for technique in ("channels", "heads"):
        member = plugins.load("techniques", technique, criterion=name, scope=scope)
        steps = [Step(technique, unit.name, member.effective(unit, keep)) for unit in member.units(structure).values()]
        if not steps:
            continue
        assert all(
            member.effective(unit, step.value) == step.value for unit, step in zip(member.units(structure).values(), steps, strict=True)
        )
        draft = engine.compress(model, Recipe.of(steps), [noise(4, *example.shape[1:], seed=1)], structure=structure)
        with torch.no_grad():
            assert shapes(call(draft.model, example)) == shapes(call(model, example))
        assert sum(p.numel() for p in draft.model.parameters()) < sum(p.numel() for p in model.parameters()), net
        assert all("says nothing of them" in note for note in draft.notes)
        assert coverage.analyse(draft.model, example).groups, "there is more to cut"
