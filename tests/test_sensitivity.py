"""sensitivity.py: whose work a layer's work is, where layers lie inside of layers."""

from types import SimpleNamespace

import networks
import pytest

from autoslim import coverage, engine, plugins
from autoslim.baking import baked
from autoslim.recipe import Recipe, Step
from autoslim.sensitivity import owner_of, work_of


@pytest.fixture(scope="module")
def attentive():
    model, example = networks.ZOO["attention"]()
    model = baked(model, example)
    structure = coverage.analyse(model, example)
    return model, example, SimpleNamespace(example=example, prepared=SimpleNamespace(structure=structure))


def test_a_choice_that_removes_nothing_leaves_every_layer_its_work(attentive):
    model, example, evaluator = attentive
    layers = evaluator.prepared.structure.layers
    assert any(inner.startswith(f"{outer}.") for outer in layers for inner in layers if outer), "projections lie inside of attention"
    units = plugins.load("techniques", "bits").units(evaluator.prepared.structure)
    found = work_of(evaluator, engine.compress(model, Recipe.of(Step("bits", unit, 8) for unit in units), [example]))
    assert found["macs"] == {name: layer.macs for name, layer in layers.items()}
    assert found["params"] == {name: layer.params for name, layer in layers.items()}


def test_the_parts_of_a_chain_are_their_layers_and_all_work_has_an_owner(attentive):
    model, example, evaluator = attentive
    draft = engine.compress(model, Recipe.of([Step("rank", "blocks.0.up", 0.25), Step("depth", "blocks.1", True)]), [example])
    found = work_of(evaluator, draft)
    from autoslim.layers import count

    assert sum(found["macs"].values()) == count(draft.model, example)[1]
    assert 0 < found["macs"]["blocks.0.up"] < evaluator.prepared.structure.layers["blocks.0.up"].macs
    assert found["macs"]["blocks.1.up"] == found["macs"]["blocks.1.attention"] == 0


def test_the_innermost_layer_owns():
    layers = {"a", "a.q", "b"}
    assert [owner_of(name, layers) for name in ("a", "a.q", "a.q.0", "a.x", "b.0.1", "c")] == ["a", "a.q", "a.q", "a", "b", None]
    assert owner_of("c.d", {""}) == ""
