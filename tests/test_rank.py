"""techniques/rank.py against the algebra: full rank is the layer itself, and less rank is more error."""

import pytest
import torch
from networks import noise
from torch import nn

from autoslim.techniques import rank

LAYERS = {
    "linear": (lambda: nn.Linear(40, 24), (5, 40)),
    "linear without bias": (lambda: nn.Linear(24, 40, bias=False), (5, 3, 24)),
    "pointwise": (lambda: nn.Conv2d(32, 24, 1, stride=2), (2, 32, 9, 9)),
    "conv": (lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 9, 9)),
    "conv strided": (lambda: nn.Conv2d(16, 24, (3, 5), stride=(2, 1), padding=(1, 2), dilation=(2, 1), bias=False), (2, 16, 13, 13)),
}


def made(build):
    torch.manual_seed(0)
    return build().eval()


def chain_of(layer, method, share):
    """The chain of a factorisation even where it would be larger than the layer."""
    if isinstance(layer, nn.Linear):
        return rank.svd_linear(layer, rank.rank_of(share, min(layer.weight.shape)))
    if max(layer.kernel_size) == 1:
        return rank.svd_pointwise(layer, rank.rank_of(share, min(layer.weight.shape[:2])))
    out, inputs, height, width = layer.weight.shape
    if method == "spatial":
        return rank.spatial(layer, rank.rank_of(share, min(out * width, inputs * height)))
    return rank.tucker2(layer, rank.rank_of(share, out), rank.rank_of(share, inputs))


CASES = [(name, method) for name in LAYERS for method in (("auto", "spatial") if name.startswith("conv") else ("auto",))]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_full_rank_is_the_layer(name, method):
    build, shape = LAYERS[name]
    layer, x = made(build), noise(*shape)
    with torch.no_grad():
        torch.testing.assert_close(chain_of(layer, method, 1.0)(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_error_falls_as_rank_rises(name, method):
    build, shape = LAYERS[name]
    layer, x = made(build), noise(*shape)
    with torch.no_grad():
        errors = [float((chain_of(layer, method, share)(x) - layer(x)).norm() / layer(x).norm()) for share in (0.25, 0.5, 0.75, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1, "random weights have no low rank"
    assert errors[-1] < 1e-4


def test_truncation_is_the_best_in_the_frobenius_norm():
    """Eckart and Young 1936: the error is the root of the sum of the squares of the singular values that were cut."""
    matrix = noise(20, 30)
    left, right = rank.halves(matrix, 8)
    values = torch.linalg.svdvals(matrix)
    assert float((matrix - left @ right).norm()) == pytest.approx(float(values[8:].square().sum().sqrt()), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "method", "share", "weights"),
    [
        ("linear", "auto", 0.33, 8 * (40 + 24)),
        ("pointwise", "auto", 0.33, 8 * (32 + 24)),
        ("conv", "auto", 0.5, 16 * 8 + 8 * 16 * 9 + 16 * 24),
        ("conv", "spatial", 0.25, 16 * 3 * 16 + 16 * 3 * 24),
    ],
)
def test_size_of_a_chain(name, method, share, weights):
    layer = made(LAYERS[name][0])
    chain = rank.factorise(layer, share, method)
    assert sum(part.weight.numel() for part in chain) == weights < layer.weight.numel()
    assert [part.bias is not None for part in chain] == [False] * (len(chain) - 1) + [True]
    torch.testing.assert_close(chain[-1].bias, layer.bias)


@pytest.mark.parametrize(
    ("share", "full", "expected"), [(0.5, 64, 32), (0.5, 24, 16), (0.25, 24, 8), (0.01, 64, 8), (0.5, 4, 4), (1.0, 24, 24), (0.9, 10, 8)]
)
def test_ranks_go_in_steps_of_eight(share, full, expected):
    assert rank.rank_of(share, full) == expected


def test_a_chain_that_is_not_smaller_is_not_made():
    assert rank.factorise(made(lambda: nn.Linear(16, 16)), 0.5, "auto") is None
    assert rank.factorise(made(lambda: nn.Linear(64, 64)), 0.9, "auto") is None
    assert rank.factorise(made(lambda: nn.Linear(64, 64)), 0.5, "auto") is None, "32 * 128 weights are as many as 64 * 64"
    assert rank.factorise(made(lambda: nn.Linear(64, 64)), 0.25, "auto") is not None


@pytest.mark.parametrize("method", ["auto", "spatial"])
def test_stride_padding_and_dilation_are_kept(method):
    layer = made(LAYERS["conv strided"][0])
    chain = chain_of(layer, method, 0.25)
    steps = [1, 1]
    for part in chain:
        steps = [a * b for a, b in zip(steps, part.stride, strict=True)]
    assert tuple(steps) == layer.stride
    assert tuple(map(sum, zip(*(part.padding for part in chain), strict=True))) == layer.padding
    assert tuple(map(max, zip(*(part.dilation for part in chain), strict=True))) == layer.dilation
    for size in (11, 12, 17):
        x = noise(1, 16, size, size)
        assert chain(x).shape == layer(x).shape


@pytest.mark.parametrize(
    ("options", "method"),
    [
        ({"kernel_size": 1, "padding": 1}, "auto"),
        ({"kernel_size": 3, "padding": "same"}, "spatial"),
    ],
)
def test_unusual_padding_is_kept(options, method):
    layer, x = made(lambda: nn.Conv2d(16, 16, **options)), noise(1, 16, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(chain_of(layer, method, 1.0)(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mode", "method"), [("circular", "auto"), ("reflect", "spatial")])
def test_a_layer_that_pads_with_something_else_than_zeros_is_kept_whole(mode, method):
    assert rank.factorise(nn.Conv2d(32, 32, 3, padding=1, padding_mode=mode), 0.25, method) is None


def test_methods_are_checked():
    with pytest.raises(rank.UserError, match="method is 'cp', allowed: auto, spatial"):
        rank.Member(method="cp")
