"""Codebooks: as many values as promised, clusters as good as scikit-learn's, and levels that survive recovery."""

import networks
import pytest
import torch
from networks import noise, seeded
from sklearn.cluster import KMeans

from autoslim import engine, packed, plugins, recovery
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, recover
from autoslim.techniques import codebook

UNIT = Unit("head", ("head",))


def coded(value, name="blocks.0.conv1", extra=()):
    model = seeded(networks.Residual)
    return model, engine.compress(model, Recipe.of([Step("codebook", name, value), *extra]), [noise(8, 3, 8, 8)])


def levels(weight):
    return len(torch.unique(weight.detach()))


@pytest.mark.parametrize("bits", [6, 4, 3, 2, 1])
@pytest.mark.parametrize("kind", codebook.LEVELS)
@pytest.mark.parametrize("per", ["tensor", "channel", 16])
def test_no_table_holds_more_values_than_its_bits_can_name(bits, kind, per):
    before = noise(32, 16, 3, 3)
    weight, _ = codebook.code(before, torch.ones_like(before, dtype=torch.bool), {"bits": bits, "levels": kind, "per": per})
    rows = {"tensor": weight.reshape(1, -1), "channel": weight.flatten(1), 16: weight.reshape(-1, 16)}[per]
    assert max(levels(row) for row in rows) <= 2**bits
    if kind == "pow2":
        found = weight[weight != 0].abs().log2()
        assert torch.equal(found, found.round()), "powers of two, exactly"
    most = {6: 0.05, 4: 0.05, 3: 0.15, 2: 0.5, 1: 1.0 if kind == "affine" else 0.7}[bits]
    assert float((weight - before).square().mean() / before.square().mean()) < most


def test_the_last_group_of_an_output_may_be_shorter():
    weight = noise(3, 21)
    made, keep = codebook.code(weight, torch.ones_like(weight, dtype=torch.bool), {"bits": 1, "levels": "kmeans", "per": 8})
    for row in made:
        assert [levels(row[start : start + 8]) for start in (0, 8, 16)] == [2, 2, 2]
    assert torch.equal(keep(made), made)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_clusters_are_as_good_as_those_of_scikit_learn(bits):
    weight = noise(40, 50)
    made, _ = codebook.code(weight, torch.ones_like(weight, dtype=torch.bool), {"bits": bits, "levels": "kmeans", "per": "tensor"})
    oracle = KMeans(2**bits, n_init=4, random_state=0).fit(weight.reshape(-1, 1).numpy())
    assert 0.95 * oracle.inertia_ < float((made - weight).square().sum()) < 1.2 * oracle.inertia_


def test_the_nearest_power_of_two_by_hand():
    weight = torch.tensor([[1.0, -0.6, 0.3, 0.1, 0.74, 0.76, -1.2, 0.0]])
    made, _ = codebook.code(weight, torch.ones_like(weight, dtype=torch.bool), {"bits": 3, "levels": "pow2", "per": "tensor"})
    assert made.tolist() == [[1.0, -0.5, 0.25, 0.0, 0.5, 1.0, -1.0, 0.0]]  # levels 0, 1/4, 1/2, 1


@pytest.mark.parametrize("bits", [6, 3, 2])
def test_evenly_spaced_levels_by_hand(bits):
    """Of all tried ranges none has less error; symmetric levels mirror each other, affine ones hold 0 and reach from end to end."""
    weight = torch.cat([noise(4, 50) + 0.5, torch.full((4, 1), 9.0)], 1)
    for kind in ("symmetric", "affine"):
        made, keep = codebook.code(weight, torch.ones_like(weight, dtype=torch.bool), {"bits": bits, "levels": kind, "per": "channel"})
        assert torch.equal(keep(made), made)
        for row, values in zip(made.double(), weight.double(), strict=True):
            found = torch.unique(row)
            step = float(found.diff().min())
            whole = found / step
            assert torch.allclose(whole, whole.round(), atol=1e-3)
            count = int(whole.round().max() - whole.round().min()) + 1
            assert count <= 2**bits - (kind == "symmetric")
            low, high = (-9.0, 9.0) if kind == "symmetric" else (min(float(values.min()), 0.0), 9.0)
            errors = []
            for share in codebook.SHARES:
                one = (high - low) * share / (2**bits - 2 if kind == "symmetric" else 2**bits - 1)
                least = round(low * share / one)
                most = least + (2**bits - 2 if kind == "symmetric" else 2**bits - 1)
                errors.append(float(((values / one).round().clamp(least, most) * one - values).square().sum()))
            assert float((row - values).square().sum()) == pytest.approx(min(errors), rel=1e-3)


@pytest.mark.parametrize("bits", [6, 3, 2])
@pytest.mark.parametrize("kind", ["symmetric", "affine"])
@pytest.mark.parametrize("per", ["tensor", "channel", 32])
def test_even_levels_are_as_small_as_their_bits_in_a_packed_file(bits, kind, per):
    weight = noise(64, 256)
    made, _ = codebook.code(weight, torch.ones_like(weight, dtype=torch.bool), {"bits": bits, "levels": kind, "per": per})
    steps = {"tensor": 64, "channel": 64, 32: 64 * 8}[per]  # a tensor's one step is stored for each row
    least = min(parts.fixed_bytes for *_, parts in packed.candidates(made.numpy(), True))
    # the whole numbers of affine levels begin elsewhere in every group, so that together they may need one bit more
    assert least <= 4 * steps + weight.numel() * (bits + (kind == "affine")) // 8


def test_one_bit_is_the_sign_times_the_mean_magnitude():
    weight = noise(5, 30)
    made, _ = codebook.code(weight, torch.ones_like(weight, dtype=torch.bool), {"bits": 1, "levels": "symmetric", "per": "channel"})
    torch.testing.assert_close(made, weight.sign() * weight.abs().mean(1, keepdim=True))


def test_zeros_of_a_sparse_layer_stay_and_do_not_draw_clusters():
    name = "blocks.0.conv1"
    _, draft = coded(2, extra=[Step("sparsity", name, 0.75)])
    weight = draft.model.get_submodule(name).weight.detach()
    assert torch.equal(weight == 0, draft.masks[name] == 0)
    assert levels(weight) == 5


@pytest.mark.parametrize("kind", [kind if kind == "kmeans" else pytest.param(kind, marks=pytest.mark.slow) for kind in codebook.LEVELS])
def test_levels_survive_recovery(kind, monkeypatch):
    monkeypatch.setattr(recovery, "LOSSLESS", 0.0)
    name = "blocks.0.conv1"
    model, draft = coded({"bits": 3, "levels": kind}, extra=[Step("sparsity", name, 0.5), Step("codebook", "head", 2)])
    lessons = [Lesson(x, model(x).detach()) for x in (noise(32, 3, 8, 8, seed=seed) for seed in range(6))]
    before = draft.model.get_submodule(name).weight.detach().clone()
    notes = recover(draft, model, lessons[:4], lessons[4:], {"distill_steps": 40, "lr": 1e-3})
    weight = draft.model.get_submodule(name).weight.detach()
    assert "kept" in " ".join(notes) or "at step" in notes[-1]
    assert torch.equal(weight == 0, draft.masks[name] == 0) or kind != "kmeans"
    assert bool((weight[draft.masks[name] == 0] == 0).all())
    assert levels(weight) <= 9
    assert levels(draft.model.head.weight) <= 4
    if kind in ("kmeans", "pow2"):
        assert torch.equal(weight, before) is (kind == "pow2"), "centroids learn, powers of two stay"
    else:
        whole = weight / before.unique().diff().min()
        assert torch.allclose(whole, whole.round(), atol=1e-3), "on the same grid"


@pytest.mark.parametrize("wrong", [9, 0, 4.0, {"bits": 4, "levels": "golden"}, {"bits": 4, "per": 4}, {"per": "tensor"}, "4"], ids=repr)
def test_wrong_values_are_refused(wrong):
    with pytest.raises(UserError, match="codebook of head: got .* allowed: bits of an index"):
        plugins.load("techniques", "codebook").effective(UNIT, wrong)


def test_options_of_a_space_become_part_of_the_value():
    member = plugins.load("techniques", "codebook", per="channel")
    assert member.effective(UNIT, 4) == {"bits": 4, "per": "channel"}
    assert plugins.load("techniques", "codebook").effective(UNIT, member.effective(UNIT, 4)) == {"bits": 4, "per": "channel"}
    with pytest.raises(UserError, match="codebook: levels is 'golden'"):
        plugins.load("techniques", "codebook", levels="golden")
