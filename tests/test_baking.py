"""Weights that are computed at every run become plain ones of the same values; techniques then treat them as any other."""

import pytest
import torch
import zoo
from torch import nn
from torch.nn.utils import parametrizations

from autoslim import coverage, plugins, separate
from autoslim.baking import baked
from autoslim.engine import compress
from autoslim.inputs import call, distance
from autoslim.recipe import Recipe, Step

FORMS = {
    "weight norm": parametrizations.weight_norm,
    "weight norm, older": nn.utils.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("form", FORMS)
def test_the_copy_computes_the_same_with_plain_weights(form):
    torch.manual_seed(0)
    model = nn.Sequential(FORMS[form](nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)).eval()
    x, names = torch.randn(5, 8), set(model.state_dict())
    plain = baked(model)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), model(x))
        assert isinstance(plain[0].weight, nn.Parameter)
    assert set(plain.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(model.state_dict()) == names, "the user's own model stays as it is"
    recipe = Recipe.of([Step("sparsity", "0", 0.5), Step("codebook", "2", 4)])
    for structure in (None, coverage.analyse(model, x[:1])):
        draft = compress(model, recipe, [x], structure=structure)
        assert int((draft.model[0].weight == 0).sum()) == 32


def test_a_model_of_plain_weights_is_handed_back():
    model = nn.Sequential(nn.Linear(2, 2))
    assert baked(model) is model


# -- modules that keep their weights to themselves --------------------------------------------------------------------------


def families():
    transformers = pytest.importorskip("transformers")
    turned = transformers.pytorch_utils.Conv1D
    return {
        "encoder": (zoo.SMALL["post-norm"][0], zoo.SMALL["post-norm"][1]),
        "turned": (lambda: nn.Sequential(turned(12, 8), nn.ReLU(), turned(8, 12)), torch.randn(2, 8)),
        "gpt2": zoo.SMALL["gpt2"][:2],
    }


@pytest.mark.parametrize("name", ["encoder", "turned", "gpt2"])
def test_every_weight_technique_reaches_what_was_kept_apart(name):
    build, example = families()[name]
    torch.manual_seed(0)
    model = build().eval()
    apart = baked(model, example)
    assert apart is not model
    assert baked(apart, example) is apart
    assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert distance(call(apart, example), call(model, example)) < 1e-5
    structure = coverage.analyse(model, example)
    for technique in ("bits", "sparsity", "codebook", "gradual", "qat", "regularised"):
        units = plugins.load("techniques", technique).units(structure)
        reached = sum(
            structure.layers[name].params for name in {one for unit in units.values() for one in unit.layers} & structure.layers.keys()
        )
        assert reached >= 0.9 * structure.params, technique


@pytest.mark.parametrize("name", ["encoder", "turned", "gpt2"])
def test_earlier_weights_of_the_network_as_it_came_fit_the_separated_one(name):
    build, example = families()[name]
    torch.manual_seed(0)
    model, early = build().eval(), build().eval()
    apart = baked(model, example)
    apart.load_state_dict(separate.restated(early.state_dict(), apart))
    with torch.no_grad():
        assert distance(call(apart, example), call(early, example)) < 1e-5


def test_a_network_that_looks_into_its_attention_stays_as_it_came():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0] + self.attention.in_proj_weight.mean()

    model, example = Looking().eval(), torch.randn(1, 4, 8)
    assert baked(model, example) is model
    assert isinstance(coverage.analyse(model, example).layers["attention"].kind, str)


def test_attention_in_two_places_stays_one():
    shared = nn.MultiheadAttention(8, 2, batch_first=True)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = shared, shared

        def forward(self, x):
            x = x + self.one(x, x, x)[0]
            return x + self.two(x, x, x)[0]

    apart = baked(Twice().eval(), torch.randn(1, 4, 8))
    assert apart.one is apart.two
    assert isinstance(apart.one, separate.Attention)
