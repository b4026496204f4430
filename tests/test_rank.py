"""techniques/rank.py against the algebra: full rank is the layer itself, and less rank is more error."""

import pytest
import torch
from networks import noise
from torch import nn

from autoslim import engine, lowrank
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
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
    with pytest.raises(rank.UserError, match="method is 'qr', allowed: auto, whitened, spatial, cp"):
        rank.Member(method="qr")
    with pytest.raises(rank.UserError, match="by is 'guess', allowed: share, energy"):
        rank.Member(by="guess")
    with pytest.raises(rank.UserError, match="cp has no singular values"):
        rank.Member(method="cp", by="energy")
    unit = Unit("layer", ("layer",))
    for wrong in ({"share": 0.5, "methods": "cp"}, {"share": 0.5, "method": "qr"}, {"share": "evbmf", "method": "cp"}, "all"):
        with pytest.raises(rank.UserError, match="rank of layer: got .*, allowed: a share of the full rank"):
            rank.Member().effective(unit, wrong)


# -- whitened: the singular value is the loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_what_is_lost_on_the_inputs_is_the_singular_values_that_were_cut(name, share):
    """The law of SVD-LLM (section 3.1): mean squared output error = sum of the squared singular values of W S beyond the rank."""
    build, shape = LAYERS[name]
    layer = made(build)
    mix = noise(shape[1], shape[1], seed=3) if len(shape) == 4 else noise(shape[-1], shape[-1], seed=3)
    x = noise(64, *shape[1:], seed=4)
    x = torch.einsum("nchw,cd->ndhw", x, mix) if len(shape) == 4 else x @ mix  # inputs that depend on each other
    gram = lowrank.grams(torch.nn.Sequential(layer), ["0"], [x])["0"]
    rank.ROUND_TO, step = 1, rank.ROUND_TO
    try:
        chain = rank.whitened(layer, share, "share", gram)
    finally:
        rank.ROUND_TO = step
    kept = chain[0].weight.shape[0]
    matrix = layer.weight.detach().flatten(1).double()
    values = torch.linalg.svdvals(matrix @ torch.linalg.cholesky(gram))
    with torch.no_grad():
        lost = (chain(x) - layer(x)).double().movedim(1 if x.dim() == 4 else -1, -1).flatten(0, -2).square().sum(1)
    # not all rows of a convolution take part in the matrix of moments
    close = 1e-3 if x.dim() < 4 else 0.1
    assert float(lost.mean()) == pytest.approx(float(values[kept:].square().sum()), rel=close)


def test_whitening_beats_the_plain_form_on_its_inputs():
    layer, x = made(lambda: nn.Linear(40, 24)), noise(200, 40) @ torch.diag(torch.linspace(0.01, 3, 40))
    gram = lowrank.grams(torch.nn.Sequential(layer), ["0"], [x])["0"]
    with torch.no_grad():
        plain, better = ((rank.factorise(layer, 0.33, method, gram=gram)(x) - layer(x)).norm() for method in ("auto", "whitened"))
    assert better < 0.85 * plain


def test_a_wide_layer_is_whitened_by_its_diagonal(monkeypatch):
    monkeypatch.setattr(lowrank, "WIDEST", 30)
    layer, x = made(lambda: nn.Linear(40, 24)), noise(200, 40) @ torch.diag(torch.linspace(0.01, 3, 40))
    gram = lowrank.grams(torch.nn.Sequential(layer), ["0"], [x])["0"]
    torch.testing.assert_close(gram, x.double().square().mean(0))
    with torch.no_grad():
        plain, better = ((rank.factorise(layer, 0.33, method, gram=gram)(x) - layer(x)).norm() for method in ("auto", "whitened"))
    assert better < plain


def test_whitening_goes_through_the_engine():
    model = torch.nn.Sequential(made(lambda: nn.Linear(40, 24)), nn.ReLU(), nn.Linear(24, 4)).eval()
    x = noise(100, 40) @ torch.diag(torch.linspace(0.01, 3, 40))
    drafts = [engine.compress(model, Recipe.of([Step("rank", "0", value)]), [x]) for value in (0.33, {"method": "whitened", "share": 0.33})]
    with torch.no_grad():
        plain, better = (float((draft.model[0](x) - model[0](x)).norm()) for draft in drafts)
    assert better < 0.85 * plain


# -- cp ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)}, {"padding": "same"}])
def test_cp_finds_a_sum_of_few_products(options):
    """A weight that is a sum of three rank-one terms is found again."""
    layer = made(lambda: nn.Conv2d(16, 20, 3, **options))
    parts = [noise(size, 3, seed=seed) for seed, size in enumerate((20, 16, 3, 3))]
    layer.weight.data = torch.einsum("or,ir,hr,wr->oihw", *parts)
    chain, x = rank.cp(layer, 3), noise(2, 16, 12, 12)
    with torch.no_grad():
        assert float((chain(x) - layer(x)).norm() / layer(x).norm()) < 1e-2
    assert sum(part.weight.numel() for part in chain) == 3 * (20 + 16 + 3 + 3)


def test_a_share_of_cp_is_a_share_of_the_weights():
    layer = made(lambda: nn.Conv2d(32, 32, 3, padding=1))
    chain = rank.factorise(layer, 0.25, "cp")
    assert sum(part.weight.numel() for part in chain) == pytest.approx(0.25 * layer.weight.numel(), rel=0.06)


# -- ranks that are chosen --------------------------------------------------------------------------------------------------


def test_energy_rank_is_the_least_that_holds_enough():
    values = torch.tensor([3.0, 2.0, 1.0])
    assert [lowrank.energy_rank(values, share) for share in (0.5, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("true", [1, 5, 12])
def test_evbmf_finds_the_rank_under_noise(true):
    """Strong components in weak noise of unknown strength; and none in noise alone."""
    matrix = noise(60, true, seed=1) @ noise(true, 100, seed=2) + 0.1 * noise(60, 100, seed=3)
    assert lowrank.evbmf_rank(matrix) == true
    assert lowrank.evbmf_rank(matrix.t()) == true
    assert lowrank.evbmf_rank(0.1 * noise(60, 100, seed=3)) == 0


@pytest.mark.parametrize(("strength", "kept"), [(0.85, 0), (1.15, 1)])
def test_evbmf_keeps_what_stands_above_the_noise(strength, kept):
    """With noise of variance v, theorem 2 keeps singular values above sqrt(long * v * x): x is computed here by hand for 60 x 100."""
    alpha = 0.6
    tau = 2.5129 * alpha**0.5
    threshold = (100 * 0.1**2 * (1 + tau) * (1 + alpha / tau)) ** 0.5
    pure = 0.1 * noise(60, 100, seed=5)
    left, values, right = torch.linalg.svd(pure, full_matrices=False)
    values[0] = strength * threshold
    assert lowrank.evbmf_rank(left @ torch.diag(values) @ right) == kept


def test_the_rank_follows_energy_or_bayes():
    layer = made(lambda: nn.Linear(100, 60))
    layer.weight.data = noise(60, 16, seed=1) @ noise(16, 100, seed=2) + 0.01 * noise(60, 100, seed=3)
    assert rank.factorise(layer, "evbmf", "auto")[0].out_features == 16
    assert rank.factorise(layer, 0.999, "auto", "energy")[0].out_features == 16
    assert rank.factorise(layer, 0.5, "auto", "energy")[0].out_features == 8
    conv = made(lambda: nn.Conv2d(32, 32, 3))
    conv.weight.data = torch.einsum("oa,abhw,ib->oihw", noise(32, 8), noise(8, 8, 3, 3), noise(32, 8, seed=1)) + 0.001 * noise(32, 32, 3, 3)
    assert rank.factorise(conv, "evbmf", "auto")[1].weight.shape[:2] == (8, 8)


def with_spectrum(squares, seed):
    """A linear layer (64, 64) whose squared singular values are given."""
    layer = made(lambda: nn.Linear(64, 64))
    left, right = (torch.linalg.qr(noise(64, 64, seed=seed + n))[0] for n in (0, 1))
    layer.weight.data = left @ torch.diag(squares.sqrt()) @ right
    return layer


@pytest.mark.parametrize("method", ["auto", "whitened"])
def test_a_global_share_of_energy_is_that_of_all_layers_together(method):
    """One layer with 64 nearly equal squares, each about 1/64 of its sum, and one that eight hold. Of two sums of one, 0.6 may go: what is
    beside the eight, and 38 of the 64; the rank of 26 becomes 24."""
    even, few = 1 + 1e-3 * torch.arange(64.0), torch.cat([torch.full((8,), 100.0), torch.full((56,), 0.01)])
    layers = nn.Sequential(with_spectrum(even, 1), with_spectrum(7.0 * few, 3))
    white = [torch.linalg.qr(noise(64, 64, seed=9))[0] * 8]  # second moments of one, so that whitening changes nothing of the first layer
    if method == "whitened":
        layers[1].weight.data = layers[1].weight.data @ torch.linalg.inv(layers[0].weight.data)
        layers[0].bias.data.zero_()
    value = {"share": 0.7, "by": "energy", "scope": "global", "method": method}
    draft = engine.compress(layers, Recipe.of([Step("rank", "0", value), Step("rank", "1", value)]), white)
    assert [draft.model[place][0].out_features for place in (0, 1)] == [24, 8]
    alone = engine.compress(layers, Recipe.of([Step("rank", "0", value)]), white)
    assert alone.notes == ["rank: 0 kept whole, 0.7 of its rank has no smaller form"], "45 of 64 are no smaller than the layer"


def test_both_sides_of_a_convolution_take_part_in_a_global_share():
    conv = made(lambda: nn.Conv2d(32, 32, 3))
    conv.weight.data = torch.einsum("oa,abhw,ib->oihw", noise(32, 8), noise(8, 8, 3, 3), noise(32, 8, seed=1)) + 1e-4 * noise(32, 32, 3, 3)
    value = {"share": 0.999, "by": "energy", "scope": "global", "method": "auto"}
    draft = engine.compress(nn.Sequential(conv), Recipe.of([Step("rank", "0", value)]), [noise(2, 32, 5, 5)])
    assert draft.model[0][1].weight.shape[:2] == (8, 8)


@pytest.mark.parametrize("wrong", [{"by": "share", "scope": "global"}, {"by": "energy", "scope": "all"}])
def test_a_scope_that_has_no_meaning_is_refused(wrong):
    with pytest.raises(UserError, match="rank: scope is"):
        rank.Member(**wrong)
    with pytest.raises(UserError, match="rank of head"):
        rank.Member().effective(Unit("head", ("head",)), {"share": 0.5} | wrong)


@pytest.mark.parametrize("unit", ["linear1", "linear2"])
@pytest.mark.parametrize("padded", [False, True])
def test_pytorchs_own_encoder_runs_with_a_chain(unit, padded):
    """Its fused operation, and the packing of padded batches, read the weights of the layers that were replaced."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    inputs = {"src": noise(2, 6, 32)}
    if padded:
        inputs["src_key_padding_mask"] = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])
    draft = engine.compress(model, Recipe.of([Step("rank", f"layers.0.{unit}", 0.25)]), [inputs])
    dense = engine.compress(model, Recipe(), [inputs]).model
    chain = draft.model.get_submodule(f"layers.0.{unit}")
    dense.get_submodule(f"layers.0.{unit}").weight.data = chain[1].weight.data @ chain[0].weight.data
    with torch.no_grad():
        got, expected = draft.model(**inputs), dense(**inputs)
    torch.testing.assert_close(got[:, :4], expected[:, :4], rtol=1e-4, atol=1e-4)
