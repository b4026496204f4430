"""Weights that are computed at every run become plain ones of the same values; techniques then treat them as any other."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from autoslim import coverage
from autoslim.baking import baked
from autoslim.engine import compress
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
