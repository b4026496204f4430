"""layers.py, groups.py, blocks.py: counts against hand formulas, groups against the law, blocks against what they are."""

import copy
import time

import networks
import pytest
import torch
import zoo
from networks import noise, seeded
from torch import nn

from autoslim import blocks, coverage, engine, groups, layers, normalising, plugins, surgery
from autoslim.recipe import Recipe, Step

IMAGE = noise(1, 3, 8, 8)
NETS = {
    "residual": (networks.Residual, IMAGE),
    "dense": (networks.Dense, IMAGE),
    "depthwise": (networks.Depthwise, IMAGE),
    "flat": (networks.Flat, IMAGE),
    "shared": (networks.Shared, noise(1, 16)),
    "tied": (networks.Tied, torch.arange(6)[None]),
    "flow": (networks.Flow, noise(1, 16)),
    "grouped": (networks.Grouped, IMAGE),
    "prenorm": (lambda: networks.PreNorm(kind=networks.Joint), noise(1, 5, 6)),
    "plain": (networks.Plain, IMAGE),
    "gru": (networks.Recurrent, noise(1, 7, 12)),
    "bilstm": (lambda: networks.Recurrent(nn.LSTM, num_layers=2, bidirectional=True), noise(1, 7, 12)),
}


@pytest.fixture(scope="module", params=sorted(NETS))
def seen(request):
    build, example = NETS[request.param]
    model = seeded(build)
    return request.param, model, example, coverage.analyse(model, example)


@pytest.fixture(scope="module")
def structures():
    made = {}

    def get(name):
        if name not in made:
            build, example = NETS[name]
            model = seeded(build)
            made[name] = model, example, coverage.analyse(model, example)
        return made[name]

    return get


# -- counts ---------------------------------------------------------------------------------------------------------------

#: (module, example without its batch axis, parameters, multiply-accumulates of one sample), all worked by hand
COUNTS = {
    "conv": (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 3 * 8 * 9 + 8, 10 * 12 * 3 * 8 * 9),
    "conv stride": (lambda: nn.Conv2d(3, 8, 3, stride=2), (3, 11, 11), 3 * 8 * 9 + 8, 5 * 5 * 3 * 8 * 9),
    "conv dilation": (lambda: nn.Conv2d(3, 8, 3, dilation=2), (3, 11, 11), 3 * 8 * 9 + 8, 7 * 7 * 3 * 8 * 9),
    "conv groups": (lambda: nn.Conv2d(8, 16, (3, 1), groups=4, bias=False), (8, 10, 10), 2 * 16 * 3, 8 * 10 * 2 * 16 * 3),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8, padding=1), (8, 10, 10), 8 * 9 + 8, 100 * 8 * 9),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5), (4, 20), 4 * 6 * 5 + 6, 16 * 4 * 6 * 5),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5), 4 * 6 * 9 + 6, 25 * 4 * 6 * 9),
    "linear": (lambda: nn.Linear(7, 5), (7,), 40, 35),
    "linear 3-D": (lambda: nn.Linear(7, 5, bias=False), (9, 7), 35, 9 * 35),
    "gru": (lambda: nn.GRU(6, 10, batch_first=True), (7, 6), 3 * 10 * (6 + 10) + 60, 7 * 3 * 10 * 16),
    "bigru": (lambda: nn.GRU(6, 10, batch_first=True, bidirectional=True), (7, 6), 2 * (3 * 10 * 16 + 60), 2 * 7 * 3 * 10 * 16),
    "bilstm 2": (
        lambda: nn.LSTM(6, 10, 2, batch_first=True, bidirectional=True),
        (7, 6),
        2 * (4 * 10 * 16 + 80) + 2 * (4 * 10 * 30 + 80),
        7 * 2 * (4 * 10 * 16 + 4 * 10 * 30),
    ),
}


@pytest.mark.parametrize("case", COUNTS)
@pytest.mark.parametrize("batch", [1, 3])
def test_counts_against_hand_formulas(case, batch):
    build, shape, params, macs = COUNTS[case]
    model = nn.Sequential(build()).eval()
    found, not_counted = layers.trace(model, torch.randn(batch, *shape))
    assert (found["0"].params, found["0"].macs) == (params, macs)
    assert not_counted == ()


def test_layers_come_in_the_order_they_run_and_repeats_add_up(structures):
    model, example, _ = structures("shared")
    found, _ = layers.trace(model, example)
    assert list(found) == ["a", "up", "down", "head"]
    assert (found["a"].calls, found["a"].macs, found["a"].params) == (2, 2 * 256, 272)
    assert layers.count(model, example) == (sum(p.numel() for p in model.parameters()), 2 * 256 + 16 * 24 * 2 + 64)


def test_what_is_not_counted_is_named(structures):
    _, _, flow = structures("flow")
    assert flow.not_counted == ("b: never ran on the example input",)
    _, _, prenorm = structures("prenorm")
    assert prenorm.not_counted == ()


# -- groups ---------------------------------------------------------------------------------------------------------------


def reading_nothing(model, group, gone):
    """A copy whose consumers find zeros where the removed channels were: a second way to say what surgery.silence does."""
    twin = copy.deepcopy(model)
    if group.kind == "heads":  # a head whose values are zero says nothing
        member = next(member for member in group.members if member.axis == "in_proj_weight:0")
        module = twin.get_submodule(member.module)
        spots = [spot for head in gone.tolist() for spot in member.positions[head] if spot >= 2 * module.embed_dim]
        module.in_proj_weight.data[spots] = 0
        module.in_proj_bias.data[spots] = 0
        return twin
    for member in group.members:
        module = twin.get_submodule(member.module)
        if isinstance(module, nn.LayerNorm):  # statistics over what stays
            spots = [spot for channel in range(group.size) if channel not in gone.tolist() for spot in member.positions[channel]]

            def norm(module, args, output, spots=spots):
                found = torch.zeros_like(args[0])
                found[..., spots] = nn.functional.layer_norm(args[0][..., spots], (len(spots),), module.weight[spots], module.bias[spots])
                return found

            module.register_forward_hook(norm)
        elif member.axis == "in_proj_weight:1":
            module.in_proj_weight.data[:, [spot for channel in gone.tolist() for spot in member.positions[channel]]] = 0
        if member.axis == "hidden":
            surgery.silence(twin, groups.Group(group.name, group.size, (member,), ""), gone)
        elif member.axis == "in" and not surgery.is_depthwise(module):
            spots = [spot for channel in gone.tolist() for spot in member.positions[channel]]

            def hook(module, args, spots=spots):
                x = args[0].clone()
                x.movedim(1 if isinstance(module, nn.Conv2d) else -1, 0)[spots] = 0
                return (x, *args[1:])

            module.register_forward_pre_hook(hook)
    return twin


def test_the_law_every_cut_is_a_silence(seen):
    """With other channels, another input and a tighter tolerance than the search for groups itself used."""
    name, model, example, structure = seen
    assert structure.groups, "every one of these networks has something to cut"
    other = torch.randint(0, 30, (2, 6)) if name == "tied" else noise(2, *example.shape[1:], seed=5)
    for group in structure.groups.values():
        gone = torch.tensor(sorted({1, group.size // 2, group.size - 1}))
        kept = torch.tensor(sorted(set(range(group.size)) - set(gone.tolist())))
        cut = copy.deepcopy(model)
        surgery.apply(cut, surgery.plan([(group, kept)], cut))
        with torch.no_grad():
            torch.testing.assert_close(cut(other), reading_nothing(model, group, gone)(other), rtol=1e-4, atol=1e-5)
        assert sum(p.numel() for p in cut.parameters()) < sum(p.numel() for p in model.parameters())


def test_analysis_leaves_the_model_alone(seen):
    name, model, _, _ = seen
    fresh = seeded(NETS[name][0])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_every_layer_is_in_a_group_or_left_out_with_a_reason(seen):
    _, _, _, structure = seen
    covered = {name for group in structure.groups.values() for name in group.producers}
    assert set(structure.layers) - covered == set(structure.left_out) & set(structure.layers)
    assert not covered & set(structure.left_out)
    assert all(structure.left_out.values())
    assert "head" not in covered, "the outputs of the whole model are nobody's to cut"


EXPECTED = {
    "residual": {
        "stem": {"stem", "blocks.0.conv2", "blocks.0.bn2", "blocks.1.conv2", "blocks.1.bn2"},
        "blocks.0.conv1": {"blocks.0.conv1", "blocks.0.bn1"},
        "blocks.1.conv1": {"blocks.1.conv1", "blocks.1.bn1"},
    },
    "dense": {"a": {"a"}, "b": {"b"}, "c": {"c"}},
    "depthwise": {"up": {"up", "dw", "bn"}, "down": {"down"}},
    "flat": {"conv": {"conv"}, "fc": {"fc"}},
    "grouped": {"a": {"a", "g"}, "b": {"b"}},
    "gru": {"rnn": {"rnn"}},
    "bilstm": {"rnn": {"rnn"}},
    "shared": {"up": {"up"}, "down": {"down"}},
    "prenorm": {
        "embed": {
            "embed",
            *(f"blocks.{block}.{part}" for block in (0, 1) for part in ("attention.out_proj", "norm1", "norm2", "down")),
        },
        "blocks.0.up": {"blocks.0.up"},
        "blocks.1.up": {"blocks.1.up"},
        "blocks.0.attention": {"blocks.0.attention"},
        "blocks.1.attention": {"blocks.1.attention"},
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_groups_are_the_coupled_layers(structures, name):
    _, _, structure = structures(name)
    assert {group.name: set(group.producers) for group in structure.groups.values()} == EXPECTED[name]


def test_positions_follow_concatenation_flattening_and_directions(structures):
    def read(name, group, consumer):
        found = structures(name)[2].groups[group]
        return next(member.positions for member in found.members if (member.module, member.axis) == (consumer, "in"))

    assert read("dense", "a", "c") == tuple((c,) for c in range(8))
    assert read("dense", "b", "c") == tuple((8 + c,) for c in range(12))
    assert read("flat", "conv", "fc")[1] == tuple(range(16, 32))
    assert read("bilstm", "rnn", "head")[5] == (5, 37)


def test_parameters_after_a_cut_equal_a_hand_count(structures):
    model, example, structure = structures("dense")
    cut = engine.compress(model, Recipe.of([Step("channels", "a", 5), Step("channels", "b", 8)]), [example], structure=structure).model
    a, b, c, head = 3 * 5 * 9 + 5, 5 * 8 * 9 + 8, (5 + 8) * 16 + 16, 16 * 4 + 4
    assert sum(p.numel() for p in cut.parameters()) == a + b + c + head
    assert layers.count(cut, example)[1] == 64 * (3 * 5 * 9 + 5 * 8 * 9 + 13 * 16) + 64
    assert (cut.a.out_channels, cut.b.in_channels, cut.c.in_channels) == (5, 5, 13)


def test_parameters_after_a_cut_of_a_bidirectional_lstm_equal_a_hand_count(structures):
    model, example, structure = structures("bilstm")
    cut = engine.compress(model, Recipe.of([Step("channels", "rnn", 8)]), [example], structure=structure).model
    assert sum(p.numel() for p in cut.parameters()) == 2 * (32 * (12 + 8) + 64) + 2 * (32 * (16 + 8) + 64) + 16 * 4 + 4


def test_a_grouped_convolution_loses_whole_groups(structures):
    """Two of four groups of four channels go, with the layer before: parameters by hand."""
    model, example, structure = structures("grouped")
    assert structure.groups["a"].size == 4
    cut = engine.compress(model, Recipe.of([Step("channels", "a", 2)]), [example], structure=structure).model
    assert (cut.a.out_channels, cut.g.groups, cut.g.in_channels, cut.g.out_channels, cut.b.in_channels) == (8, 2, 8, 8, 8)
    assert sum(p.numel() for p in cut.parameters()) == (8 * 27 + 8) + (8 * 4 * 9 + 8) + (24 * 8 + 24) + 100


def test_heads_are_removed_whole_and_counted_by_hand(structures):
    """One of two heads of 8 channels: query, key and value lose 8 rows each, the projection 8 columns."""
    model, example, structure = structures("prenorm")
    draft = engine.compress(model, Recipe.of([Step("heads", "blocks.0.attention", 1)]), [example], structure=structure)
    attention = draft.model.blocks[0].attention
    assert sum(p.numel() for p in attention.parameters()) == 3 * (8 * 16 + 8) + (16 * 8 + 16)
    before, after = structure.layers["blocks.0.attention"].macs, layers.trace(draft.model, example)[0]["blocks.0.attention"].macs
    assert (before, after) == (5 * 4 * 16 * 16 + 2 * 5 * 5 * 16, 5 * 4 * 16 * 8 + 2 * 5 * 5 * 8)


def test_the_residual_stream_of_a_transformer_is_cut_by_hand(structures):
    """Half of 16 channels: the embedding's outputs, all norms, both sides of every block, and what the head reads; heads keep their width."""
    model, example, structure = structures("prenorm")
    draft = engine.compress(model, Recipe.of([Step("channels", "embed", 8)]), [example], structure=structure)
    block = (2 * 2 * 8) + (48 * 8 + 48) + (8 * 16 + 8) + (32 * 8 + 32) + (8 * 32 + 8)
    assert sum(p.numel() for p in draft.model.parameters()) == (8 * 6 + 8) + 2 * block + (4 * 8 + 4)
    macs = layers.trace(draft.model, example)[0]
    assert macs["blocks.0.attention"].macs == 5 * 4 * 8 * 16 + 2 * 5 * 5 * 16
    both = engine.compress(model, Recipe.of([Step("channels", "embed", 8), Step("heads", "blocks.0.attention", 1)]), [example])
    assert sum(p.numel() for p in both.model.blocks[0].attention.parameters()) == 3 * (8 * 8 + 8) + (8 * 8 + 8)
    assert draft.model(example).shape == both.model(example).shape == model(example).shape


def test_a_layer_norm_over_some_channels_is_that_of_the_network_without_the_others():
    norm, x, kept = nn.LayerNorm(6), noise(3, 4, 6), torch.tensor([0, 2, 5])
    norm.weight.data, norm.bias.data = noise(6, seed=1), noise(6, seed=2)
    small = nn.LayerNorm(3)
    small.weight.data, small.bias.data = norm.weight.data[kept], norm.bias.data[kept]
    with torch.no_grad(), normalising.over(nn.Sequential(norm), {("0", "out"): kept}):
        found = nn.Sequential(norm)(x)
    torch.testing.assert_close(found[..., kept], small(x[..., kept]).detach())
    assert torch.equal(norm(x), nn.functional.layer_norm(x, (6,), norm.weight, norm.bias)), "only while it is on"


@pytest.mark.parametrize("name", ["residual", "dense", "depthwise", "flat", "shared"])
def test_groups_are_those_of_torch_pruning_where_it_has_any(structures, name):
    """Its graph, built from gradients, is another way to the same groups."""
    model, example, structure = structures(name)
    other, trouble = groups.by_torch_pruning(groups.traceable(model), example, 20.0)
    assert not trouble

    def plain(group):
        return {(member.module, member.axis, member.positions) for member in group.members}

    theirs = [plain(group) for group in other if set(group.producers) <= {m for g in structure.groups.values() for m in g.producers}]
    assert [plain(group) in theirs for group in structure.groups.values()] == [True] * len(structure.groups)


def test_tied_weights_are_named_and_their_axis_is_left_alone(structures):
    _, _, structure = structures("tied")
    assert structure.tied == (("dec.weight", "emb.weight"),)
    assert set(structure.groups) == {"up"}


def test_no_technique_makes_a_network_with_tied_weights_larger(structures):
    model, example, structure = structures("tied")
    before = sum(p.numel() for p in model.parameters())
    for name in plugins.names("techniques"):
        member = plugins.load("techniques", name)
        steps = [
            Step(name, unit.name, value)
            for unit in member.units(structure).values()
            if (value := member.effective(unit, member.values[-1])) is not None
        ]
        draft = engine.compress(model, Recipe.of(steps), [example], structure=structure)
        assert sum(p.numel() for p in draft.model.parameters()) <= before, name


def test_nothing_is_left_of_a_group_is_refused(structures):
    model, _, structure = structures("flat")
    with pytest.raises(groups.Untreatable, match="would leave no channel"):
        surgery.plan([(structure.groups["conv"], torch.tensor([], dtype=torch.long))], model)


def test_time_limit_ends_a_busy_loop_and_not_what_comes_after():
    def busy(seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    with pytest.raises(groups.TimedOut), groups.time_limit(0.05):
        busy(20)
    with groups.time_limit(0.05):
        pass
    busy(0.15)


def test_where_the_flow_fails_torch_pruning_is_asked_and_then_neighbours(structures, monkeypatch):
    import torch_pruning

    def broken(*args, **kwargs):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(groups.flow, "follow", broken)
    model, example, _ = structures("flat")
    ran = layers.trace(model, example)[0]
    found = groups.find(model, example, ran)
    assert {group.name: group.found_by for group in found.groups.values()} == {"conv": "torch-pruning", "fc": "torch-pruning"}
    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", broken)
    found = groups.find(model, example, ran)
    assert {group.name: group.found_by for group in found.groups.values()} == {"fc": "consecutive pair"}
    assert found.left_out["conv"] == (
        "the flow of channels was not found (RuntimeError: no such operation); Torch-Pruning failed (RuntimeError: no such operation)"
    )


def test_time_ends_the_checks_and_what_was_not_checked_is_said(structures, monkeypatch):
    model, example, structure = structures("residual")
    real, calls = groups.lawful, []

    def slow(model, example, some):
        calls.append(len(some))
        time.sleep(0.3)
        return "no" if len(calls) == 1 else real(model, example, some)

    monkeypatch.setattr(groups, "lawful", slow)
    found = groups.find(model, example, layers.trace(model, example)[0], seconds=0.25)
    assert calls == [len(structure.groups)], "one check is always made, and none after the limit"
    assert not found.groups
    assert found.unchecked == len(structure.groups)
    assert found.left_out["stem"] == "its channels were not checked within the time limit"
    assert str(found) == "3 groups proposed, 0 hold, 0 do not, 3 not checked in time; 1 checks"


def test_a_false_proposal_is_refuted_and_the_others_are_kept(structures):
    """A group that forgets a reader breaks no other."""
    model, example, structure = structures("residual")
    good = list(structure.groups.values())
    stem = structure.groups["stem"]
    lie = groups.Group("head", stem.size, tuple(m for m in stem.members if m.module != "blocks.1.conv1"), "lie")
    found = groups.Findings(time.monotonic() + 20)
    groups.believe(model, example, [group for group in good if group.name != "stem"] + [lie], found)
    assert set(found.groups) == {group.name for group in good} - {"stem"}
    assert found.refuted == 1
    assert found.left_out["stem"].startswith("its channels cannot be cut")


class Halves(nn.Module):
    """Half of the channels go on untouched, the others through a layer: no channel can go without its place in the other half."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(10, 4, 1)

    def forward(self, x):
        one, other = torch.relu(self.a(x)).chunk(2, 1)
        return self.c(torch.cat([one, torch.relu(self.b(other))], 1)).mean((2, 3))


class Parallel(zoo.Attention):
    """The projection after the heads reads a feed-forward layer as well."""

    def __init__(self):
        super().__init__()
        self.up, self.out = nn.Linear(24, 16), nn.Linear(24 + 16, 24)

    def forward(self, x):
        x = self.embed(x)
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        heard = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.head((x + self.out(torch.cat([heard, torch.relu(self.up(x))], -1))).mean(1))


def test_heads_that_share_an_axis_with_channels_are_left_and_named():
    structure = coverage.analyse(seeded(Parallel), noise(1, 7, 6))
    assert set(structure.groups) == {"embed", "up"}
    assert structure.left_out["qkv"] == "its heads are read together with channels of other layers"


class Mixed(nn.Module):
    """Channels of a layer without groups are shuffled in two rows."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = x.view(len(x), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)
        return self.c(torch.relu(self.b(x))).mean((2, 3))


@pytest.mark.parametrize(("build", "torn", "left"), [(Halves, ["a"], {"b"}), (Mixed, ["a"], {"b"})])
def test_channels_that_a_split_or_a_shuffle_takes_apart_are_not_proposed(build, torn, left):
    model, reasons = seeded(build), {}
    proposed = groups.coupling.propose(model, groups.flow.follow(model, IMAGE), reasons)
    assert {group.name for group in proposed} == left
    assert [reasons[name] for name in torn] == [groups.coupling.UNEVEN] * len(torn)


def test_a_shuffle_loses_the_same_channels_of_every_group():
    """Three groups of eight: two channels of each go, by hand."""
    model = seeded(zoo.Shuffle)
    structure = coverage.analyse(model, IMAGE)
    assert structure.groups["b"].width == 3
    cut = engine.compress(model, Recipe.of([Step("channels", "b", 6)]), [IMAGE], structure=structure).model
    assert (cut.b.out_channels, cut.b.groups, cut.c.groups, cut.d.in_channels) == (18, 3, 18, 18)
    assert sum(p.numel() for p in cut.parameters()) == 24 * 28 + (18 * 8 + 18) + (18 * 9 + 18) + (32 * 18 + 32) + (32 * 4 + 4)


# -- blocks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "found"), [("residual", ["blocks.0", "blocks.1"]), ("prenorm", ["blocks.0", "blocks.1"]), ("plain", []), ("flat", [])]
)
def test_blocks_are_those_with_a_shortcut(structures, name, found):
    assert list(structures(name)[2].blocks) == found


def test_a_removed_block_is_its_shortcut(structures):
    model, example, structure = structures("prenorm")
    cut = engine.compress(model, Recipe.of([Step("depth", "blocks.0", True)]), [example], structure=structure).model
    with torch.no_grad():
        expected = model.head(model.blocks[1](model.embed(example)).mean(1))
        torch.testing.assert_close(cut(example), expected)
    assert structure.blocks["blocks.0"].params == sum(p.numel() for p in model.blocks[0].parameters())


def test_a_block_that_changes_shape_is_no_block():
    class Widening(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 1)

        def forward(self, x):
            return torch.cat([x, x], 1) + self.conv(x)

    model = nn.Sequential(nn.Sequential(Widening()), nn.Conv2d(6, 4, 1)).eval()
    assert blocks.find(model, IMAGE, layers.trace(model, IMAGE)[0]) == {}
