"""layers.py, groups.py, blocks.py: counts against hand formulas, groups against the law, blocks against what they are."""

import copy
import time

import networks
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import blocks, coverage, engine, groups, layers, plugins, surgery
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
    "prenorm": (networks.PreNorm, noise(1, 5, 6)),
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
    for member in group.members:
        module = twin.get_submodule(member.module)
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
    "grouped": {"b": {"b"}},
    "gru": {"rnn": {"rnn"}},
    "bilstm": {"rnn": {"rnn"}},
    "shared": {"up": {"up"}, "down": {"down"}},
    "prenorm": {"blocks.0.up": {"blocks.0.up"}, "blocks.1.up": {"blocks.1.up"}},
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


def test_a_grouped_convolution_is_left_out_and_named(structures):
    _, _, structure = structures("grouped")
    assert structure.left_out["g"] == "grouped convolution: its channels cannot be cut one by one"
    assert "a" in structure.left_out, "its channels are those of the grouped convolution"


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


def test_a_tracer_that_takes_too_long_leaves_the_other_rules(structures, monkeypatch):
    import torch_pruning

    def forever(*args, **kwargs):
        while True:
            pass

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", forever)
    model, example, _ = structures("flat")
    found, left_out = groups.find(model, example, layers.trace(model, example)[0], seconds=0.1)
    assert {group.name: group.found_by for group in found.values()} == {"fc": "consecutive pair"}
    assert left_out["conv"] == "Torch-Pruning took longer than 0.1 s"


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
