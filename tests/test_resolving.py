"""Layers solved anew: exact where the compressed model can still say the same, and better than before where it cannot."""

import copy

import pytest
import torch
from torch import nn

from autoslim import resolving
from autoslim.engine import compress
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, Reference, judge, recover


def silent():
    return None


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1),
        lambda: nn.Conv2d(3, 8, (3, 1), padding=(1, 0), dilation=(2, 1), bias=False),
        lambda: nn.Conv2d(3, 8, 1),
    ],
)
def test_a_damaged_layer_is_restored(build):
    """With all inputs left, least squares finds the original's weights again (the ridge is all that keeps it from exactness)."""
    torch.manual_seed(0)
    layer = nn.Sequential(build()).eval()
    batches = [torch.randn(32, 3, 12, 12) for _ in range(4)]
    goals = resolving.targets(layer, batches)
    broken = copy.deepcopy(layer)
    broken[0].weight.data += 0.3 * torch.randn_like(broken[0].weight)
    before = (broken[0].weight - layer[0].weight).norm()
    resolving.resolve(broken, goals, {}, batches)
    assert (broken[0].weight - layer[0].weight).norm() < 0.02 * before


def test_linear_and_conv1d_agree_with_torch_lstsq():
    """The same answer as an ordinary least-squares solver, where the ridge is negligible against the data."""
    torch.manual_seed(0)
    for layer, x in ((nn.Linear(5, 4, bias=False), torch.randn(400, 5)), (nn.Conv1d(5, 4, 1, bias=False), torch.randn(40, 5, 10))):
        model = nn.Sequential(layer)
        rows = resolving.patches("0", layer, x)
        goal = rows @ torch.randn(5, 4)
        resolving.solve("0", layer, x, goal)
        expected = torch.linalg.lstsq(rows, goal).solution.t()
        torch.testing.assert_close(model[0].weight.flatten(1), expected, rtol=0.03, atol=0.03)


def test_pruned_network_comes_nearer_to_the_original():
    """Half of the hidden units gone: the gap to the original falls by far, and without a label."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    data = [torch.randn(32, 10) for _ in range(10)]
    lessons = [Lesson(x, model(x).detach()) for x in data]
    draft = compress(model, Recipe.of([Step("channels", "2", 32)]), data[:4])
    before = judge(draft.model, lessons[8:], silent)
    notes = recover(draft, model, lessons[:8], lessons[8:], {"bn": False, "bias": False})
    assert judge(draft.model, lessons[8:], silent) < 0.5 * before
    assert "kept" in notes[0]


def test_positions_are_the_same_for_the_original_and_the_compressed():
    assert torch.equal(resolving.places("a.b", 1000), resolving.places("a.b", 1000))
    assert not torch.equal(resolving.places("a.b", 1000), resolving.places("a.c", 1000))
    assert Reference.of(nn.Sequential(nn.Linear(3, 2)), [Lesson(torch.randn(8, 3), None)]).targets["0"].shape == (8, 2)
