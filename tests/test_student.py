"""techniques/student.py: forms of convolutions against what they must compute."""

import networks
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import engine, layers
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.techniques import student

IMAGE = noise(1, 3, 8, 8)


def conv(*args, **options):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **options).eval()


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2, "bias": False}])
def test_a_separable_weight_is_found_again(options):
    layer = conv(16, 24, 3, **options)
    layer.weight.data = noise(24, 16, 1, 1) * noise(1, 16, 3, 3, seed=1)
    new, x = student.separable(layer), noise(2, 16, 11, 11, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(new(x), layer(x), rtol=1e-4, atol=1e-4)
    assert sum(p.weight.numel() for p in new) == 16 * 9 + 16 * 24


def test_the_separable_form_is_nearer_than_any_scaled_mean_of_the_kernels():
    layer = conv(16, 24, 3)
    depthwise, points = (part.weight.detach() for part in student.separable(layer))
    near = points * depthwise.transpose(0, 1)
    mean = layer.weight.detach().mean(0, keepdim=True)
    share = (layer.weight * mean).sum((2, 3), keepdim=True) / mean.square().sum((2, 3), keepdim=True)
    assert (layer.weight - near).norm() < (layer.weight - share * mean).norm()


def test_a_cropped_kernel_reads_the_same_places():
    layer = conv(4, 6, 5, padding=2, stride=2)
    layer.weight.data[:, :, [0, 4]] = 0
    layer.weight.data[:, :, :, [0, 4]] = 0
    new, x = student.cropped(layer, 3), noise(1, 4, 11, 11)
    assert (new.kernel_size, new.padding) == ((3, 3), (1, 1))
    with torch.no_grad():
        torch.testing.assert_close(new(x), layer(x), rtol=1e-5, atol=1e-5)


def test_kernels_that_cannot_be_cropped_are_kept():
    for layer in (conv(4, 6, 3, padding=1), conv(4, 6, 5), conv(4, 6, 1)):
        assert student.cropped(layer, 3) is layer


def compressed(value):
    model = seeded(networks.Residual)
    return model, engine.compress(model, Recipe.of([Step("student", "", value)]), [IMAGE]).model


def test_separable_early_and_narrow_go_together():
    model, cut = compressed({"separable": True})
    assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for p in model.parameters()) - 4 * (32 * 32 * 9 - 32 * 9 - 32 * 32)
    model, cut = compressed({"early": True})
    assert cut.stem[0].stride == (2, 2)
    assert layers.count(cut, IMAGE)[1] == 16 * (3 * 32 * 9 + 4 * 32 * 32 * 9) + 32 * 4
    _, cut = compressed({"separable": True, "width": 0.5})
    assert cut.blocks[0].conv1[0].groups == 16
    assert sum(p.numel() for p in cut.parameters()) == (3 * 16 * 9 + 16) + 4 * (16 * 9 + 16 * 16) + 2 * (16 + 4 * 16) + 16 * 4 + 4


def test_values_are_canonical_and_checked():
    member, unit = student.Member(), Unit("", ("a",))
    assert member.effective(unit, {"separable": False}) is None
    assert member.effective(unit, {"kernel": 3, "separable": True}) == {"width": 1.0, "depth": 1.0, "separable": True, "kernel": 3}
    for wrong in ({"kernel": 4}, {"kernel": True}, {"separable": 1}, {"early": "yes"}, {"width": True}):
        with pytest.raises(student.UserError, match="student: got .*, allowed: "):
            member.effective(unit, wrong)


def test_a_network_without_convolutions_says_so():
    model = seeded(networks.Mlp)
    with pytest.raises(student.Untreatable, match="no convolution that these changes apply to"):
        engine.compress(model, Recipe.of([Step("student", "", {"separable": True})]), [noise(1, 20)])
