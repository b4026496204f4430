"""Every family of small networks: what structural techniques reach, that they really shrink it, and that counts are true."""

import copy

import pytest
import torch
import zoo
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import ShiftedWindowAttention

from autoslim import coverage, heads, layers, plugins, separate
from autoslim.baking import baked
from autoslim.engine import compress
from autoslim.inputs import call, distance
from autoslim.recipe import Recipe, Step


@pytest.fixture(scope="module", params=sorted(zoo.SMALL))
def network(request):
    """(name, network, example, least share, structure)."""
    build, example, least = zoo.SMALL[request.param]
    torch.manual_seed(0)
    model = build().eval()
    return request.param, model, example, least, coverage.analyse(model, example)


def shrunk(structure, share):
    """The recipe that keeps ``share`` of every group."""
    steps = []
    for name, options in (("channels", {"round_to": 1}), ("heads", {})):
        technique = plugins.load("techniques", name, **options)
        units = technique.units(structure).items()
        steps += [Step(name, unit, kept) for unit, told in units if (kept := technique.effective(told, share)) is not None]
    return Recipe.of(steps)


def test_channels_and_heads_reach_the_network_and_halve_its_macs(network):
    name, model, example, least, structure = network
    assert coverage.reach(structure)["params_share"] >= least
    draft = compress(model, shrunk(structure, 0.25), [example], structure=structure)
    before, after = layers.count(model, example), layers.count(draft.model, example)
    assert after[1] <= 0.5 * before[1]
    assert after[0] < before[0]


IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
#: networks whose LayerNorms take statistics over the residual stream -> (network, example, widths of the streams)
STREAMS = {
    "vit": (lambda: VisionTransformer(64, 16, 2, 4, 64, 256), IMAGE, {64}),
    "swin": (lambda: SwinTransformer([4, 4], 48, [1, 2], [3, 6], [4, 4]), IMAGE, {48, 96}),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)]), IMAGE, {32, 64}),
    "bert": (*zoo.SMALL["bert"][:2], {64}),
}


@pytest.mark.parametrize("name", STREAMS)
def test_half_of_the_residual_stream_is_half_of_the_macs(name):
    """All layers beside the products of attention read or write the stream; the class token and its position are cut with the patches."""
    build, example, widths = STREAMS[name]
    torch.manual_seed(0)
    model = build().eval()
    structure = coverage.analyse(model, example)
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    streams = [group for group in structure.groups.values() if norms & set(group.producers)]
    assert {group.size for group in streams} == widths
    assert norms == {producer for group in streams for producer in group.producers} & norms, "every norm is in one of them"
    draft = compress(model, Recipe.of(Step("channels", group.name, group.size // 2) for group in streams), [example], structure=structure)
    assert layers.count(draft.model, example)[1] < 0.53 * structure.macs
    assert call(draft.model, example) is not None


def weights(model, name):
    """Numbers in the weights (no biases) of a module, its own and those below it."""
    return sum(value.numel() for value in model.get_submodule(name).parameters() if value.dim() > 1)


def test_macs_fall_as_the_weights_do(network):
    """With all positions kept, a layer's products are proportional to its weights; attention products to the heads."""
    name, model, example, _, structure = network
    draft = compress(model, shrunk(structure, 0.25), [example], structure=structure)
    after, _ = layers.trace(draft.model, example)
    model = baked(model, example)  # as the draft is: a normalised weight is one tensor, not a direction and a length
    assert after.keys() == structure.layers.keys()
    left = {
        m.module: (group.size, len(draft.kept[m.module, "heads"]))
        for group in structure.groups.values()
        for m in group.members
        if m.axis == "heads"
    }
    for layer in structure.layers.values():
        pure = layer.kind == "MatMul" and not layer.params
        before, now = left[layer.name] if pure else (weights(model, layer.name), weights(draft.model, layer.name))
        if layer.kind == "MatMul" and layer.name in left and not pure or name == "attention" and not layer.name:
            continue  # holds both
        if layer.kind == "MultiheadAttention":  # width and heads: weights times positions, and twice positions^2 times the heads' width
            inner = [one.get_submodule(layer.name).out_proj.in_features for one in (model, draft.model)]
            long = round(((before**2 + 8 * inner[0] * layer.macs) ** 0.5 - before) / (4 * inner[0]))
            assert before * long + 2 * long**2 * inner[0] == layer.macs
            assert after[layer.name].macs == now * long + 2 * long**2 * inner[1], layer.name
            continue
        assert after[layer.name].macs * before == layer.macs * now, layer.name


def test_what_a_block_costs_is_what_its_removal_saves(network):
    _, model, example, _, structure = network
    draft = compress(model, Recipe.of(Step("depth", name, True) for name in structure.blocks), [example], structure=structure)
    params, macs = layers.count(draft.model, example)
    assert params == structure.params - sum(block.params for block in structure.blocks.values())
    assert macs == structure.macs - sum(block.macs for block in structure.blocks.values())


def test_what_is_left_alone_has_a_reason_that_people_can_read(network):
    _, _, _, _, structure = network
    covered = {member.module for group in structure.groups.values() for member in group.members if not member.reads}
    assert set(structure.left_out) >= structure.layers.keys() - covered
    assert all(why and "\n" not in why and "Traceback" not in why for why in structure.left_out.values())


def test_what_a_technique_leaves_alone_is_named_with_the_reason(network):
    """Units and what is named are all layers with weights."""
    _, _, _, _, structure = network
    techniques = {name: plugins.load("techniques", name) for name in plugins.names("techniques")}
    techniques = {name: technique for name, technique in techniques.items() if getattr(technique, "by_weights", False)}
    assert {"sparsity", "gradual", "regularised", "rank", "codebook", "qat", "bits"} <= set(techniques)
    report = coverage.report(structure, techniques)
    for name, technique in techniques.items():
        touched = {layer for unit in technique.units(structure).values() for layer in unit.layers}
        left = report["techniques"][name]["not_reached"]
        assert set(left) == {one or "(the model itself)" for one, layer in structure.layers.items() if layer.params and one not in touched}
        assert all(why.startswith(f"{name} has no form for ") and "\n" not in why for why in left.values())


def test_macs_are_those_of_pytorchs_own_counter(network):
    """It knows no recurrent layers, and no attention on the CPU; for the latter it is given its own formula for other devices."""
    name, model, example, _, structure = network
    if any(kind in ("LSTM", "GRU") for kind in (layer.kind for layer in structure.layers.values())):
        pytest.skip("PyTorch's counter does not know recurrent layers")
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formula = {attention: lambda q, k, v, *rest, out_shape=None, **options: sdpa_flop_count(q, k, v)}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formula) as counter:
            call(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert 2 * structure.macs == counter.get_total_flops()


def test_idle_parameters_are_named_and_not_counted_as_left():
    model = zoo.Keywords()
    model.spare = torch.nn.Linear(100, 100)
    structure = coverage.analyse(model.eval(), zoo.SMALL["keywords"][1])
    assert structure.idle == {"spare": 10100}
    assert coverage.reach(structure) == {"params_share": 1.0, "macs_share": 1.0, "idle_params": 10100}


# -- attention with fewer heads: with all heads it is what it replaces -----------------------------------------------------

MASKS = {
    "none": {},
    "no weights": {"need_weights": False},
    "padding": {"key_padding_mask": torch.tensor([[False] * 4 + [True] * 2, [False] * 6])},
    "causal": {"attn_mask": torch.nn.Transformer.generate_square_subsequent_mask(6), "need_weights": False},
    "boolean": {"attn_mask": torch.ones(6, 6).triu(1).bool(), "average_attn_weights": False},
    "per head": {"attn_mask": torch.randn(8, 6, 6)},
}


def slim(original):
    """PyTorch's attention as it is after heads were removed, here none."""
    made = copy.deepcopy(original)
    heads.keep(made, torch.arange(original.num_heads))
    return made


@pytest.mark.parametrize("form", [slim, separate.Attention])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_with_all_heads_is_pytorchs(form, masks, batch_first):
    torch.manual_seed(0)
    original = torch.nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
    torch.nn.init.normal_(original.in_proj_bias)
    x = torch.randn(2, 6, 16) if batch_first else torch.randn(6, 2, 16)
    with torch.no_grad():
        got, expected = (one(x, x, x, **MASKS[masks]) for one in (form(original), original))
    torch.testing.assert_close(got[0], expected[0], rtol=1e-4, atol=1e-5)
    assert (got[1] is None) == (expected[1] is None)
    if got[1] is not None:
        torch.testing.assert_close(got[1], expected[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [slim, separate.Attention])
@pytest.mark.parametrize("bias", [True, False])
def test_attention_takes_other_keys_and_no_batch(form, bias):
    torch.manual_seed(0)
    original = torch.nn.MultiheadAttention(16, 4, kdim=10, vdim=12, bias=bias, batch_first=True).eval()
    query, key, value = torch.randn(5, 16), torch.randn(7, 10), torch.randn(7, 12)
    with torch.no_grad():
        for one, other in zip(form(original)(query, key, value), original(query, key, value), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [2, 0], [0, 1]])
@pytest.mark.parametrize("size", [(8, 8), (10, 7), (4, 9), (3, 3)])
def test_slim_windows_with_all_heads_are_torchvisions(shift, size):
    torch.manual_seed(0)
    module = ShiftedWindowAttention(12, [4, 4], shift, 3).eval()
    torch.nn.init.normal_(module.relative_position_bias_table)
    x = torch.randn(2, *size, 12)
    with torch.no_grad():
        expected = module(x)
        heads.keep(module, torch.arange(3))
        assert distance(module(x), expected) < 1e-5


def test_a_module_that_does_not_say_how_many_heads_it_has_is_untreatable():
    with pytest.raises(heads.Untreatable, match="Linear has no attribute for its number of heads"):
        heads.number(torch.nn.Linear(2, 2))


def test_the_fused_layer_of_pytorch_does_not_read_cut_attention():
    """nn.TransformerEncoderLayer takes a fused operation in inference, which would read a square of weights."""
    build, example, _ = zoo.SMALL["post-norm"]
    torch.manual_seed(0)
    model = build().eval()
    structure = coverage.analyse(model, example)
    name = next(group.name for group in structure.groups.values() if group.kind == "heads")
    draft = compress(model, Recipe.of([Step("heads", name, 2)]), [example], structure=structure)
    with torch.no_grad():
        assert draft.model(example).shape == model(example).shape


@pytest.mark.parametrize("ranking", plugins.names("rankings"))
def test_channels_are_ranked_beside_removed_blocks_that_owned_weights(ranking):
    """ConvNeXt's blocks own their layer scales, so that groups have members in modules that are gone."""
    build, example, _ = STREAMS["convnext"]
    torch.manual_seed(0)
    model = build().eval()
    structure = coverage.analyse(model, example)
    block = next(iter(structure.blocks))
    stream = next(group for group in structure.groups.values() if any(m.module == block for m in group.members))
    recipe = Recipe.of([Step("depth", block, True), Step("channels", stream.name, {"keep": stream.size // 2, "criterion": ranking})])
    draft = compress(model, recipe, [example], structure=structure)
    assert call(draft.model, example).shape == call(model, example).shape
