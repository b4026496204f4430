"""Second moments of what layers read: against whole matrices of readings, however few samples run at once and layers share a pass."""

import pytest
import torch
import torch.nn.functional as F
from networks import noise, seeded
from torch import nn

from autoslim import grams


class Twice(nn.Module):
    """A grouped convolution, a linear layer that runs twice, one that never runs; and the batch sizes that it saw."""

    def __init__(self):
        super().__init__()
        self.conv, self.again, self.idle = nn.Conv2d(4, 8, 3, 2, 1, groups=2), nn.Linear(8, 8), nn.Linear(3, 3)
        self.sizes = []

    def forward(self, x):
        self.sizes.append(len(x))
        x = torch.relu(self.conv(x)).mean((2, 3))
        return self.again(torch.tanh(self.again(x)))


def found(model, batches):
    return {name: moments for name, _, moments in grams.visit(model, batches)}


def mean_of(rows):
    """(rows, columns) -> their second moments."""
    return rows.T.double() @ rows.double() / len(rows)


@pytest.mark.parametrize(("room", "passes"), [(0, 3), (30, 1)])
def test_moments_are_those_of_all_readings_together(room, passes, monkeypatch):
    monkeypatch.setattr(grams, "SUMS", room)
    model, batches = seeded(Twice), [noise(21, 4, 9, 9), noise(5, 4, 9, 9, seed=1)]
    told = found(model, batches)
    assert set(told) == {"conv", "again"}
    x = torch.cat(batches)
    patches = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)  # 25 positions: all of them take part
    for group, moments in enumerate(told["conv"]):
        torch.testing.assert_close(
            moments.double(), mean_of(patches.reshape(-1, 36)[:, 18 * group : 18 * (group + 1)]), rtol=1e-4, atol=1e-5
        )
    with torch.no_grad():
        first = torch.relu(model.conv(x)).mean((2, 3))
    torch.testing.assert_close(told["again"][0].double(), mean_of(first), rtol=1e-4, atol=1e-5)
    assert max(model.sizes) <= grams.PIECE
    assert sum(model.sizes) == 26 * passes


def test_a_pass_holds_no_more_than_it_may():
    model = nn.Sequential(*(nn.Linear(columns, 2) for columns in (40, 40, 4, 200, 4, 4)))
    room = grams.SUMS * 4 * sum(parameter.numel() for parameter in model.parameters())
    told = grams.passes(model)
    assert [name for names in told for name in names] == list("012345")
    for names in told:
        needs = [4 * model.get_submodule(name).in_features ** 2 for name in names]
        assert sum(needs) <= room or len(needs) == 1
    assert ["3"] in told, "the widest alone is more than fits"


def test_hooks_are_taken_off_also_where_the_model_raises():
    model = seeded(Twice)
    with pytest.raises(RuntimeError):
        found(model, [noise(2, 5, 9, 9)])
    assert not any(module._forward_pre_hooks for module in model.modules())
