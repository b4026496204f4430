"""The option database: against the layers themselves, closed forms, the engine's own techniques, and laws."""

import csv
from pathlib import Path

import networks
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from networks import noise, seeded
from torch import nn

from autoslim import engine, options
from autoslim.cli.main import call
from autoslim.recipe import Recipe, Step

BITS, SHARES, RANKS = (32, 8, 4, 2), (0.0, 0.5, 0.9), (1.0, 0.5, 0.25)


def layer(outputs=24, columns=40, rows=300):
    """(weight, inputs whose columns go together, their second moments)."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, columns, generator=generator)
    inputs = torch.randn(rows, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    return weight, inputs, (inputs.T @ inputs).double() / rows


def linear(bits=BITS, shares=SHARES, ranks=RANKS):
    """(options of one linear layer, its weight, its inputs)."""
    weight, inputs, _ = layer()
    model = nn.Sequential(nn.Linear(40, 24))
    model[0].weight.data.copy_(weight)
    return options.database(model, [inputs[:150], inputs[150:]], bits, shares, ranks)["0"], weight, inputs


def relative(made, weight, inputs):
    """The error of outputs as they are, in units of the outputs' squares."""
    return float((inputs @ (made - weight).T).square().sum() / (inputs @ weight.T).square().sum())


def test_the_error_of_each_pair_is_that_of_the_layer_which_it_makes():
    found, weight, inputs = linear()
    _, _, gram = layer()
    upper = options.spreading(gram)
    for one, some, made in options.swept(weight.double(), upper, gram.diagonal(), BITS, SHARES):
        for place, matrix in zip(range(*some.indices(len(SHARES))), made, strict=True):
            assert found.error[one, place, 0] == pytest.approx(relative(matrix, weight, inputs), rel=1e-3, abs=1e-9)
            assert found.weights[one, place, 0] == int((matrix != 0).sum())
            assert found.weights[one, place, 0] <= weight.numel() - round(weight.numel() * SHARES[place])
            if BITS[one] != 32:
                assert max(len(np.unique(np.abs(row))) for row in matrix.numpy()) <= 2 ** (BITS[one] - 1) + 1


def test_a_rank_alone_costs_what_the_singular_values_say():
    found, weight, inputs = linear()
    outputs = torch.linalg.svdvals((inputs @ weight.T).double()).square()
    for place, share in enumerate(RANKS[1:], 1):
        rank = round(24 * share)
        if rank * (24 + 40) < 24 * 40:
            assert found.error[0, 0, place] == pytest.approx(float(outputs[rank:].sum() / outputs.sum()), rel=1e-3)
            assert found.weights[0, 0, place] == rank * (24 + 40)
    assert found.error[0, 0, 0] == pytest.approx(0, abs=1e-9)


def test_zeros_are_those_of_the_engine():
    model = nn.Sequential(nn.Linear(160, 24))
    weight, inputs, _ = layer(columns=160)  # more columns than are pruned at once
    model[0].weight.data.copy_(weight)
    found = options.database(model, [inputs], (32,), (0.5, 0.75), (1.0,))["0"]
    for place, share in enumerate((0.5, 0.75)):
        made = engine.compress(model, Recipe.of([Step("sparsity", "0", {"share": share, "criterion": "obs"})]), [inputs]).model[0].weight
        assert found.error[0, place, 0] == pytest.approx(relative(made.detach(), weight, inputs), rel=0.02)


def test_spreading_errors_beats_rounding_each_weight_by_itself():
    found, weight, inputs = linear()
    top = weight.abs().amax(1, keepdim=True)
    for one, high in ((2, 7), (3, 1)):
        nearest = (weight / (top / high)).round() * (top / high)
        assert found.error[one, 0, 0] < 0.7 * relative(nearest, weight, inputs)


def test_more_is_worse():
    error = linear()[0].error
    for axis in (0, 1, 2):  # fewer bits, more zeros, lower ranks
        steps = np.diff(error, axis=axis)
        assert (steps[np.isfinite(steps)] > -0.02).all()
    assert error[-1, -1, -1] > error[1, 0, 0]


@pytest.mark.parametrize("groups", [1, 4, 8])
def test_a_convolution_group_by_group(groups):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, groups=groups))
    x = noise(32, 8, 6, 6)
    found = options.database(model, [x], (32, 3), (0.0, 0.5), (1.0,))["0"]
    assert found.error.shape == (2, 2, 1)
    assert found.error[0, 0, 0] == pytest.approx(0, abs=1e-9)
    draft = engine.compress(model, Recipe.of([Step("sparsity", "0", {"share": 0.5, "criterion": "obs"})]), [x])
    plain = F.conv2d(x, model[0].weight, padding=1, groups=groups)
    made = F.conv2d(x, draft.model[0].weight, padding=1, groups=groups)
    told = float((made - plain).square().sum() / plain.square().sum())
    assert found.error[0, 1, 0] == pytest.approx(told, rel=0.05)


def test_every_layer_of_a_network_has_every_option_and_the_network_stays_as_it_is():
    model = seeded(networks.Residual)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = options.database(model, [noise(16, 3, 8, 8)], (32, 8), (0.0, 0.5), (1.0, 0.25))
    assert set(found) == {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    for name, one in found.items():
        size = model.get_submodule(name).weight.numel()
        assert np.isfinite(one.error[..., 0]).all()
        assert one.size[0, 0, 0] == 4 * size
        assert one.size[1, 0, 0] <= size
        assert len(list(one.rows())) == np.isfinite(one.error).sum()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_inputs_that_are_all_zero_do_not_end_it():
    found = options.database(nn.Sequential(nn.Linear(40, 24)), [torch.zeros(8, 40)], BITS, SHARES, RANKS)["0"]
    assert np.isfinite(found.error[:, :, 0]).all()


def test_fewer_samples_than_columns_do_not_end_it():
    rows = 1e3 * F.relu(noise(64, 400))
    rows = torch.cat([rows, rows @ noise(400, 40, seed=1)], 1)  # columns that depend on each other
    gram = (rows.T @ rows).double() / len(rows)
    assert torch.linalg.cholesky_ex(gram)[1], "there is no factor without a ridge"
    root = options.rooted(gram)
    assert torch.allclose(root @ root.T, gram, atol=0.011 * float(gram.diagonal().mean()), rtol=1e-3)
    model = nn.Sequential(nn.Linear(440, 32))
    found = options.database(model, [rows], (32, 4), (0.5,), (1.0, 0.25))["0"]
    assert (np.isfinite(found.error) & (found.error < 1)).all()


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"bits": (1,)}, r"bits: got 1, allowed: 2 to 8, or 32"),
        ({"shares": (0.5, 1.0)}, "shares: got 1.0, allowed: a share of zeros"),
        ({"ranks": (0,)}, "ranks: got 0, allowed: a share of the full rank"),
    ],
)
def test_options_out_of_range_are_told(told, message):
    with pytest.raises(ValueError, match=message):
        options.database(nn.Sequential(nn.Linear(4, 4)), [torch.zeros(2, 4)], **told)


def test_many_options_held_at_once_are_those_that_are_held_one_by_one(monkeypatch):
    some = linear()[0]
    monkeypatch.setattr(options, "HELD", 1)
    other = linear()[0]
    assert np.allclose(some.error, other.error, rtol=1e-4, atol=1e-7, equal_nan=True)


def test_the_database_as_a_table(tmp_path, capsys, monkeypatch):
    path, task = tmp_path / "options.csv", str(Path(networks.__file__).parent / "tasks" / "tiny.py")
    assert call(["profile", "--task", task, "--options", str(path)], False) == 0
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert f"{len(rows)} options" in capsys.readouterr().out
    assert {row["layer"] for row in rows} == {"stem", "block.conv", "head"}
    pairs = len(options.BITS) * len(options.SHARES)
    assert sum(row["layer"] == "stem" for row in rows) == pairs, "one input channel has no lower rank"
    assert sum(row["layer"] == "block.conv" for row in rows) == pairs * len(options.RANKS)
    plain = next(row for row in rows if row["layer"] == "block.conv" and row["bits"] == "32" and row["zeros"] == "0.0")
    assert (plain["rank"], plain["weights"], plain["bytes"]) == ("1.0", "2304", "9216")
    monkeypatch.setattr(options, "database", lambda *_: pytest.fail("computed before the place was tried"))
    for place in (Path("/proc/no/o.csv"), tmp_path):
        assert call(["profile", "--task", task, "--options", str(place)], False) == 2
        assert "--options: got" in capsys.readouterr().err


def test_the_error_of_an_option_of_a_recurrent_layer_is_that_of_its_gates():
    model, x = seeded(lambda: nn.LSTM(12, 16, batch_first=True)), noise(40, 9, 12)
    found = options.database(model, [x], (32, 4), (0.0, 0.5), (1.0,))
    assert set(found) == {"weight_ih_l0", "weight_hh_l0"}
    with torch.no_grad():
        hidden = model(x)[0]
    reads = {"weight_ih_l0": x.reshape(-1, 12), "weight_hh_l0": torch.cat([torch.zeros(40, 1, 16), hidden[:, :-1]], 1).reshape(-1, 16)}
    for name, one in found.items():
        rows, weight = reads[name], getattr(model, name).detach()
        gram = (rows.T @ rows / len(rows))[None]
        made = options.sweep(weight[None], options.spreading(gram).float(), torch.tensor([0.5]), None, 32)[0]
        assert one.error[0, 1, 0] == pytest.approx(relative(made, weight, rows), rel=1e-3)
        assert one.error[0, 0, 0] == pytest.approx(0, abs=1e-9)
        assert 0 < one.error[1, 0, 0] < one.error[1, 1, 0]
        assert one.weights[0, 1, 0] == weight.numel() / 2


def test_the_projections_of_attention_have_options():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    found = options.database(seeded(Attends), [noise(20, 6, 32)], (32, 8), (0.0,), (1.0,))
    assert {name.rsplit(".", 1)[-1] for name in found} == {"q_proj", "k_proj", "v_proj", "out_proj"}
