"""importance.py: the score of a channel is the mean square of what its readers make of it, by brute force."""

import pytest
import torch
from networks import noise
from torch import nn

from autoslim import groups, importance
from autoslim.structure import Member


def alone(module, x, channels, dim):
    """What a layer without bias makes of some of its channels: mean over positions of the squared norm of its outputs, if the
    channels were independent of each other."""
    total = 0.0
    for channel in channels:
        only = torch.zeros_like(x)
        only.select(dim, channel).copy_(x.select(dim, channel))
        output = module(only).movedim(dim, -1).flatten(0, -2)
        total += float(output.double().square().sum(1).mean())
    return total


CASES = {
    "linear": (lambda: nn.Linear(6, 5, bias=False), (40, 6), -1, [(0,), (1, 2), (5,)]),
    "pointwise": (lambda: nn.Conv2d(6, 5, 1, bias=False), (4, 6, 5, 5), 1, [(0,), (1, 2), (5,)]),
    "transposed": (lambda: nn.ConvTranspose2d(6, 5, 1, bias=False), (4, 6, 5, 5), 1, [(0,), (3,)]),
}


@pytest.mark.parametrize("name", CASES)
def test_energy_is_what_a_reader_makes_of_a_channel(name):
    build, shape, dim, positions = CASES[name]
    torch.manual_seed(0)
    model, x = nn.Sequential(build()), noise(*shape)
    group = groups.Group("g", len(positions), (Member("0", "in", tuple(positions)),), "test")
    with torch.no_grad():
        scores = importance.importance(model, importance.second_moments(model, [x]), group)
        expected = [alone(model[0], x, channels, dim) for channels in positions]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_a_grouped_convolution_reads_the_same_channel_of_every_group():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Conv2d(6, 8, 1, groups=2, bias=False)), noise(4, 6, 5, 5)
    group = groups.Group("g", 3, (Member("0", "in", ((0,), (1,), (2,))),), "test")
    with torch.no_grad():
        scores = importance.importance(model, importance.second_moments(model, [x]), group)
        expected = [alone(model[0], x, (channel, channel + 3), 1) for channel in range(3)]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-6)


def test_without_samples_weights_decide_of_any_tensor():
    """The strongest rows of a weight that a module of the user's holds."""
    model = nn.Module()
    model.matrix = nn.Parameter(torch.diag(torch.tensor([1.0, 3.0, 2.0])))
    group = groups.Group("g", 3, (Member("", "matrix:1", ((0,), (1,), (2,))),), "test")
    assert importance.keep_best(model, {}, group, 2).tolist() == [1, 2]


@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTM])
def test_hidden_units_whose_weights_are_small_go_first(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(5, 4))
    gates = 3 if kind is nn.GRUCell else 4
    for name, value in model[0].named_parameters():
        if name.startswith("weight_ih"):
            value.data.view(gates, 4, -1)[:, 2] *= 0.01
    group = groups.Group("g", 4, (Member("0", "hidden", tuple((c,) for c in range(4))),), "test")
    assert importance.keep_best(model, {}, group, 3).tolist() == [0, 1, 3]
