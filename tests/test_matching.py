"""Layer norms matched: the statistics that were asked for, channel by channel, and kept only where that helps."""

import copy

import networks
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import engine, matching
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, judge, recover


def quiet():
    """A pause that nobody waits for."""


def damaged(model, seed=1, size=0.3):
    """A copy with every matrix a little off."""
    generator, model = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data += size * parameter.data.std() * torch.randn(parameter.shape, generator=generator)
    return model


def test_statistics_are_those_of_the_outputs():
    model, batches = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8)), [noise(5, 3, 6, seed=seed) for seed in range(2)]
    rows = torch.cat([model(x).detach().reshape(-1, 8) for x in batches])
    mean, spread = matching.statistics(model, batches)["1"]
    torch.testing.assert_close(mean.float(), rows.mean(0))
    torch.testing.assert_close(spread.float(), rows.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_after_one_batch_every_norm_has_the_originals_mean_and_spread():
    """In the order of execution: a norm deep in the network meets inputs that earlier ones have corrected already."""
    model, x = seeded(networks.PreNorm), noise(64, 5, 6)
    wanted, other = matching.statistics(model, [x]), damaged(model)
    before = matching.statistics(other, [x])
    matching.match(other, wanted, {}, [x])
    after = matching.statistics(other, [x])
    assert set(after) == {f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)}
    for name, (mean, spread) in wanted.items():
        torch.testing.assert_close(after[name][0], mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(after[name][1], spread, rtol=1e-4, atol=1e-5)
    assert (before["blocks.1.norm2"][1] - wanted["blocks.1.norm2"][1]).abs().max() > 0.01, "there was something to match"


def test_batches_are_averaged():
    """One norm alone, whose inputs do not depend on it: the shift after two batches is the mean of what each asked for."""
    model, batches = nn.Sequential(nn.LayerNorm(4)), [noise(50, 4, seed=seed) for seed in range(2)]
    wanted = {"0": (torch.full((4,), 3.0).double(), matching.statistics(model, batches)["0"][1])}
    matching.match(model, wanted, {}, batches)
    rows = torch.cat([model(x).detach() for x in batches])
    torch.testing.assert_close(rows.mean(0), torch.full((4,), 3.0), rtol=0, atol=0.03)


def test_kept_channels_are_compared_with_their_own():
    kept = torch.tensor([1, 3, 4])
    model, wanted = nn.Sequential(nn.LayerNorm(3)), {"0": (torch.arange(6.0).double(), torch.ones(6).double() * 2)}
    x = noise(100, 3)
    matching.match(model, wanted, {("0", "out"): kept}, [x])
    mean, spread = matching.statistics(model, [x])["0"]
    torch.testing.assert_close(mean, torch.tensor([1.0, 3.0, 4.0]).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close(spread, torch.full((3,), 2.0).double(), rtol=1e-4, atol=0)


def test_a_channel_that_does_not_move_is_not_blown_up():
    model = nn.Sequential(nn.LayerNorm(4))
    model[0].weight.data[0] = 0.0
    matching.match(model, {"0": (torch.zeros(4).double(), torch.ones(4).double() * 100)}, {}, [noise(20, 4)])
    assert float(model[0].weight.detach().abs().max()) <= matching.FACTOR


def test_norms_over_images_have_their_channels_in_the_second_axis():
    from torchvision.models.convnext import LayerNorm2d

    model, x = nn.Sequential(LayerNorm2d(6)), noise(8, 6, 5, 5)
    matching.match(model, {"0": (torch.ones(6).double(), torch.ones(6).double())}, {}, [x])
    torch.testing.assert_close(model(x).detach().mean((0, 2, 3)), torch.ones(6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_recovery_keeps_it_only_where_the_gap_narrows(share):
    model = seeded(networks.PreNorm)
    batches = [noise(32, 5, 6, seed=seed) for seed in range(8)]
    with torch.no_grad():
        pairs = [Lesson(x, model(x)) for x in batches]
    recipe = Recipe.of(Step("sparsity", f"blocks.{i}.{name}", share) for i in (0, 1) for name in ("up", "down"))
    draft = engine.compress(model, recipe, batches[:2])
    before, weights = judge(draft.model, pairs[6:], quiet), copy.deepcopy(draft.model.state_dict())
    settings = {"resolve": False, "bias": False}
    (note,) = recover(draft, model, pairs[:6], pairs[6:], settings)
    after = judge(draft.model, pairs[6:], quiet)
    assert note.startswith(f"layer-norm matching: gap {before:.4g} -> ")
    changed = {name for name, value in draft.model.state_dict().items() if not torch.equal(value, weights[name])}
    assert after < before if note.endswith("kept") else not changed
    assert all("norm" in name for name in changed)
