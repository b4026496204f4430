"""techniques/student.py: forms of convolutions against what they must compute."""

import math

import networks
import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from networks import noise, seeded
from torch import nn

from autoslim import coverage, engine, fusing, layers, offers, onnx_folding, packed, plugins, prediction, resolving
from autoslim.interfaces import Unit
from autoslim.recipe import Recipe, Step
from autoslim.spec import load_space, load_study
from autoslim.techniques import _plain, student

IMAGE = noise(1, 3, 8, 8)


def conv(*args, **options):
    torch.manual_seed(0)
    return nn.Conv2d(*args, **options).eval()


@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2, "bias": False}])
def test_a_separable_weight_is_found_again(options):
    layer = conv(16, 24, 3, **options)
    layer.weight.data = noise(24, 16, 1, 1) * noise(1, 16, 3, 3, seed=1)
    new, x = student.separable(layer), noise(2, 16, 11, 11, seed=2)
    with torch.no_grad():
        torch.testing.assert_close(new(x), layer(x), rtol=1e-4, atol=1e-4)
    assert sum(p.weight.numel() for p in new) == 16 * 9 + 16 * 24


def test_the_separable_form_is_nearer_than_any_scaled_mean_of_the_kernels():
    layer = conv(16, 24, 3)
    depthwise, points = (part.weight.detach() for part in student.separable(layer))
    near = points * depthwise.transpose(0, 1)
    mean = layer.weight.detach().mean(0, keepdim=True)
    share = (layer.weight * mean).sum((2, 3), keepdim=True) / mean.square().sum((2, 3), keepdim=True)
    assert (layer.weight - near).norm() < (layer.weight - share * mean).norm()


def test_a_cropped_kernel_reads_the_same_places():
    layer = conv(4, 6, 5, padding=2, stride=2)
    layer.weight.data[:, :, [0, 4]] = 0
    layer.weight.data[:, :, :, [0, 4]] = 0
    new, x = student.cropped(layer, 3), noise(1, 4, 11, 11)
    assert (new.kernel_size, new.padding) == ((3, 3), (1, 1))
    with torch.no_grad():
        torch.testing.assert_close(new(x), layer(x), rtol=1e-5, atol=1e-5)


def test_kernels_that_cannot_be_cropped_are_kept():
    for layer in (conv(4, 6, 3, padding=1), conv(4, 6, 5), conv(4, 6, 1)):
        assert student.cropped(layer, 3) is layer


def compressed(value):
    model = seeded(networks.Residual)
    return model, engine.compress(model, Recipe.of([Step("student", "", value)]), [IMAGE]).model


def test_separable_early_and_narrow_go_together():
    model, cut = compressed({"separable": True})
    assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for p in model.parameters()) - 4 * (32 * 32 * 9 - 32 * 9 - 32 * 32)
    model, cut = compressed({"early": True})
    assert cut.stem[0].stride == (2, 2)
    assert layers.count(cut, IMAGE)[1] == 16 * (3 * 32 * 9 + 4 * 32 * 32 * 9) + 32 * 4
    _, cut = compressed({"separable": True, "width": 0.5})
    assert cut.blocks[0].conv1[0].groups == 16
    assert sum(p.numel() for p in cut.parameters()) == (3 * 16 * 9 + 16) + 4 * (16 * 9 + 16 * 16) + 2 * (16 + 4 * 16) + 16 * 4 + 4


@pytest.mark.parametrize(("value", "stream", "inner"), [({}, 32, 16), ({"width": 0.5}, 16, 8), ({"separable": True}, 32, 16)])
def test_a_bottleneck_narrows_inside_blocks_and_leaves_the_sums_between_them(value, stream, inner):
    _, cut = compressed({"bottleneck": 0.5, **value})
    outs = {name: layer.out_channels for name, layer in cut.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1}
    assert {width for name, width in outs.items() if "conv1" in name} == {inner}
    assert {width for name, width in outs.items() if "conv1" not in name} == {stream}
    with torch.no_grad():
        assert cut(IMAGE).isfinite().all()


def test_a_bottleneck_narrows_the_feed_forward_part_of_a_transformer():
    model, example = networks.ZOO["attention"]()
    draft = engine.compress(model, Recipe.of([Step("student", "", {"bottleneck": 0.5})]), [example])
    for before, after in zip(model.blocks, draft.model.blocks, strict=True):
        assert (before.up.out_features, after.up.out_features, after.down.in_features) == (32, 16, 16)
        assert after.down.out_features == before.down.out_features == after.norm1.normalized_shape[0]
    assert draft.model(example).shape == model(example).shape


def test_a_coarser_resolution_is_the_teacher_on_the_means_of_pixels():
    model, cut = compressed({"resolution": 0.5})
    x = noise(3, 3, 8, 8)
    small = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]).mean(0)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(small), rtol=1e-4, atol=1e-5)
    assert layers.count(cut, IMAGE)[1] == 16 * (3 * 32 * 9 + 4 * 32 * 32 * 9) + 32 * 4
    member, unit = student.Member(), Unit("", ("a",))
    assert member.effective(unit, {"resolution": 1}) is None
    assert member.effective(unit, {"resolution": 0.33})["resolution"] == 0.33
    for wrong in (0, 0.7, 2, True, "half"):
        with pytest.raises(student.UserError, match="student: got .*, allowed: .*resolution"):
            member.effective(unit, {"resolution": wrong})


def test_branches_are_the_blocks_on_the_diagonal_and_meet_where_the_width_changes():
    model, cut = compressed({"branches": 4})
    assert (cut.stem.groups, cut.blocks[0].conv1.groups, cut.blocks[1].conv2.groups) == (1, 4, 4)
    whole = model.blocks[0].conv1.weight
    parts = [whole[at : at + 8, at : at + 8] for at in range(0, 32, 8)]
    x = noise(2, 32, 5, 5)
    with torch.no_grad():
        alone = [nn.functional.conv2d(x[:, at : at + 8], part, padding=1) for at, part in zip(range(0, 32, 8), parts, strict=True)]
        torch.testing.assert_close(cut.blocks[0].conv1(x), torch.cat(alone, 1), rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for p in model.parameters()) - 4 * (32 * 32 * 9) * 3 // 4
    assert layers.count(cut, IMAGE)[1] == 64 * (3 * 32 * 9 + 4 * 32 * 8 * 9) + 32 * 4


def test_branches_take_no_width_that_they_do_not_divide():
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, groups=3)).eval()
    for count, message in ((8, "no layer that these changes apply to"), (5, "no layer that these changes apply to")):
        with pytest.raises(student.Untreatable, match=message):
            engine.compress(model, Recipe.of([Step("student", "", {"branches": count})]), [noise(1, 3, 12, 12)])
    made = engine.compress(model, Recipe.of([Step("student", "", {"branches": 3})]), [noise(1, 3, 12, 12)]).model
    assert (made[0].groups, made[2].groups, made[4].groups) == (1, 3, 3)


def test_each_branch_is_solved_by_itself_for_what_the_teacher_gave():
    """Against one least-squares problem per branch, by numpy."""
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(6, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)).eval()
    batches = [noise(64, 6, 6, 6, seed=seed) for seed in range(4)]
    draft = engine.compress(teacher, Recipe.of([Step("student", "", {"branches": 2})]), batches[:1])
    with torch.no_grad():
        hidden, goal = teacher[:2](torch.cat(batches)), teacher(torch.cat(batches))
        rough = float((draft.model(torch.cat(batches)) - goal).square().mean())
    resolving.resolve(draft.model, resolving.targets(teacher, batches), draft.kept, batches)
    with torch.no_grad():
        solved = float((draft.model(torch.cat(batches)) - goal).square().mean())
    patches = nn.functional.unfold(hidden, 3, padding=1).transpose(1, 2).reshape(-1, 16, 9).double().numpy()
    wanted = goal.flatten(2).transpose(1, 2).reshape(-1, 16).double().numpy()
    error = 0.0
    for part in (slice(0, 8), slice(8, 16)):
        rows = np.concatenate([patches[:, part].reshape(len(patches), -1), np.ones((len(patches), 1))], 1)
        error += float(((rows @ np.linalg.lstsq(rows, wanted[:, part], rcond=None)[0] - wanted[:, part]) ** 2).sum())
    assert solved < 0.9 * rough
    assert solved == pytest.approx(error / wanted.size, rel=0.02), "the ridge and the sampled positions leave two per cent"


def test_repeated_blocks_are_one_block_that_learns_for_both():
    model, cut = compressed({"share": True})
    assert cut.blocks[0] is cut.blocks[1]
    own = sum(p.numel() for p in model.blocks[1].parameters())
    assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for p in model.parameters()) - own
    assert layers.count(cut, IMAGE)[1] == layers.count(model, IMAGE)[1], "it runs as often as before"
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        hidden = torch.relu(model.stem(x))
        want = model.head(model.blocks[0](model.blocks[0](hidden)).mean((2, 3)))
        torch.testing.assert_close(cut(x), want, rtol=1e-4, atol=1e-5)
    assert not any(module is other for module in model.blocks[:1] for other in model.blocks[1:]), "the original keeps its own"


def test_blocks_of_other_forms_are_not_shared():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 3, padding=1)
            self.blocks = nn.Sequential(networks.Residual.Block(32), networks.Residual.Block(32), networks.Residual.Block(32))
            self.blocks[1].conv1 = nn.Conv2d(32, 32, 1, bias=False)
            self.head = nn.Linear(32, 4)

        def forward(self, x):
            return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))

    made = engine.compress(seeded(Net), Recipe.of([Step("student", "", {"share": True, "width": 0.5})]), [IMAGE]).model
    assert made.blocks[0] is made.blocks[2]
    assert made.blocks[0] is not made.blocks[1]
    assert made.blocks[0].conv1.out_channels == 16


@pytest.fixture(
    scope="module",
    params=[{"share": True}, {"branches": 4}, {"share": True, "branches": 2, "width": 0.5, "early": True}, {"resolution": 0.5}],
    ids=str,
)
def floats(request, tmp_path_factory):
    """(the network, its structure, calibration batches, a student's step, the student's float file), which all bits share."""
    model, folder = seeded(networks.Residual), tmp_path_factory.mktemp("student")
    structure, runtime = coverage.analyse(model, IMAGE), plugins.load("runtimes", "onnxruntime_cpu")
    runtime.export(engine.Draft(model, structure, IMAGE), IMAGE, [], folder / "untouched.onnx")
    samples, step = [noise(16, 3, 8, 8, seed=seed) for seed in (1, 2)], Step("student", "", request.param)
    draft = engine.compress(model, Recipe.of([step]), samples, structure=structure)
    runtime.export(draft, IMAGE, samples, folder / "base.onnx", original=(folder / "untouched.onnx", model))
    return model, structure, samples, step, folder / "base.onnx"


@pytest.mark.parametrize("bits", [32, 8, "w4a8"])
def test_a_file_computes_the_student_and_stores_what_is_shared_once(floats, bits, tmp_path):
    model, structure, samples, step, base = floats
    runtime, path = plugins.load("runtimes", "onnxruntime_cpu"), tmp_path / "model.onnx"
    whole = {"format": bits, "fallback": "never"} if bits != 32 else 32
    steps = [step, *(Step("bits", name, whole) for name in structure.layers if bits != 32)]
    draft = engine.compress(model, Recipe.of(steps), samples, structure=structure)
    runtime.finish(draft, base, samples, path)
    got = runtime.open(path, 1).run(samples[0])
    with torch.no_grad():
        want = draft.model(samples[0])
    error = float((got - want).norm() / want.norm())
    assert error < {32: 1e-4, 8: 0.05, "w4a8": 0.3}[bits]
    proto = onnx.load(str(path))
    kernels = [item for item in proto.graph.initializer if len(item.dims) == 4]
    wanted = [p for p in fusing.fused(draft.model, IMAGE).parameters() if p.dim() == 4]
    assert sorted(math.prod(item.dims) for item in kernels) == sorted(p.numel() for p in wanted)
    if bits != 32:  # weights with their steps, and each integer bias; what scales activations and biases is left out
        said = ("zero_point", "quantized_scale")
        kept = [i for i in proto.graph.initializer if i.dims and not i.name.endswith(said) and i.data_type != onnx.TensorProto.INT64]
        small = [i for i in kept if "bias" in i.name and len(i.raw_data) < 32]
        assert prediction.predict(draft).payload_bytes == sum(len(i.raw_data) for i in kept) - sum(len(i.raw_data) for i in small)
    if bits == 32:
        arrays = [onnx.numpy_helper.to_array(item) for item in proto.graph.initializer]
        told = prediction.predict(draft)
        assert told.params == sum(a.size for a in arrays if a.ndim and a.dtype != np.int64)
        assert told.payload_bytes == packed.pack(proto, entropy=False).payload
    assert sum(node.op_type == "Conv" for node in proto.graph.node) == 5, "a shared block runs twice"


class Staged(nn.Module):
    """A residual network whose last stage halves a map of 8 x 8."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.down, self.across, self.second = nn.Conv2d(16, 24, 3, 2, 1), nn.Conv2d(16, 24, 1, 2), nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head((self.second(self.down(x).relu()) + self.across(x)).relu().mean((2, 3)))


def test_a_dense_stage_is_a_fully_connected_layer_over_means_of_regions():
    """By hand: of a map of 8 x 8 a kernel of 3 x 3 reads means of 4 x 4 that begin at 0, 2 and 4; then there is one position."""
    model = seeded(Staged)
    cut = engine.compress(model, Recipe.of([Step("student", "", {"dense": True})]), [IMAGE]).model
    x = noise(2, 3, 8, 8)
    with torch.no_grad():
        stem = model.stem(x).relu()
        means = torch.stack([torch.stack([stem[:, :, i : i + 4, j : j + 4].mean((2, 3)) for j in (0, 2, 4)], 2) for i in (0, 2, 4)], 2)
        down = (means.flatten(1) @ model.down.weight.flatten(1).t() + model.down.bias).relu()
        across = stem.mean((2, 3)) @ model.across.weight.flatten(1).t() + model.across.bias
        second = down @ model.second.weight[:, :, 1, 1].t() + model.second.bias
        torch.testing.assert_close(cut(x), model.head((second + across).relu()), rtol=1e-4, atol=1e-5)


def test_networks_without_a_stage_that_could_be_dense_say_so():
    with pytest.raises(student.Untreatable, match="no layer that these changes apply to"):
        engine.compress(seeded(networks.Residual), Recipe.of([Step("student", "", {"dense": True})]), [IMAGE])

    class Flat(Staged):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(24 * 16, 4)

        def forward(self, x):
            return self.head(self.second(self.down(self.stem(x))).flatten(1))

    with pytest.raises(student.Untreatable, match="last stage cannot be dense"):
        engine.compress(seeded(Flat), Recipe.of([Step("student", "", {"dense": True})]), [IMAGE])


def test_a_plain_network_computes_what_it_computes_with_silent_projections():
    """Reference: the digits network whose projections' batch norms multiply by zero and add nothing. What is exported has no sum left."""
    from autoslim.tasks.digits import task

    model, example = task.model().eval(), task.example_input()
    draft = engine.compress(model, Recipe.of([Step("student", "", {"plain": True})]), [example])
    silent = [model.stages[1][0].shortcut[1], model.stages[2][0].shortcut[1]]
    for norm in silent:
        norm.weight.data.zero_()
        norm.bias.data.zero_()
    images = task.arrays("val")[0][:8]
    with torch.no_grad():
        torch.testing.assert_close(draft.model(images), model(images), rtol=1e-5, atol=1e-5)
    gone = sum(p.numel() for stage in (1, 2) for p in model.stages[stage][0].shortcut.parameters())
    assert layers.count(model, example)[0] - layers.count(draft.model, example)[0] == gone > 0


def test_the_sums_with_what_is_left_out_are_not_exported(tmp_path):
    from autoslim.tasks.digits import task

    runtime, example = plugins.load("runtimes", "onnxruntime_cpu"), task.example_input()
    model = task.model().eval()
    draft = engine.compress(model, Recipe.of([Step("student", "", {"plain": True, "depth": 0.01})]), [example])
    runtime.export(draft, example, [], tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert "Add" not in {node.op_type for node in graph.node}
    images = task.arrays("val")[0][:8]
    with torch.no_grad():
        torch.testing.assert_close(runtime.open(tmp_path / "model.onnx", 1).run(images), draft.model(images), rtol=1e-4, atol=1e-4)


def test_sums_with_nothing_that_follow_each_other_all_go():
    """y = ((x + 0) + 0) * 2 and a sum with a vector of zeros, which may broadcast and stays."""
    text = "agraph (float[n, 1] x) => (float[n, 3] y) <float zero = {0}, float[3] zeros = {0, 0, 0}, float two = {2}> {"
    text += "a = Add(x, zero) b = Add(zero, a) c = Mul(b, two) y = Add(c, zeros) }"
    model = onnx.helper.make_model(onnx.parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", 20)])
    onnx_folding.drop_zeros(model)
    onnx.checker.check_model(model)
    assert [(node.op_type, list(node.input)) for node in model.graph.node] == [("Mul", ["x", "two"]), ("Add", ["c", "zeros"])]


class Beside(nn.Module):
    """1x1 convolutions beside a deeper path: one is added, one is joined, one multiplies, and one is added to what nothing else computes."""

    def __init__(self):
        super().__init__()
        self.deep, self.added, self.joined = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.gate, self.alone = nn.Conv2d(3, 8, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        both = torch.cat([(self.deep(x) + self.added(x)) * self.gate(x).sigmoid(), self.joined(x)], 1)
        return self.head((both + self.alone(both)).mean((2, 3)))


def test_only_convolutions_that_are_added_to_a_deeper_path_are_projections():
    assert _plain.projections(seeded(Beside), IMAGE) == ["added"]
    with pytest.raises(student.Untreatable, match="no layer that these changes apply to"):
        engine.compress(seeded(networks.Residual), Recipe.of([Step("student", "", {"plain": True})]), [IMAGE])


def test_values_are_canonical_and_checked():
    member, unit = student.Member(), Unit("", ("a",))
    assert member.effective(unit, {"branches": 1, "share": False}) is None
    assert member.effective(unit, {"branches": 2, "share": True}) == {"width": 1.0, "depth": 1.0, "share": True, "branches": 2}
    assert member.effective(unit, {"separable": False}) is None
    assert member.effective(unit, {"bottleneck": 1}) is None
    assert member.effective(unit, {"bottleneck": 0.5}) == {"width": 1.0, "depth": 1.0, "bottleneck": 0.5}
    assert member.effective(unit, {"kernel": 3, "separable": True}) == {"width": 1.0, "depth": 1.0, "separable": True, "kernel": 3}
    for wrong in (
        {"kernel": 4},
        {"kernel": True},
        {"separable": 1},
        {"early": "yes"},
        {"width": True},
        {"branches": 0},
        {"branches": True},
        {"share": 1},
        {"bottleneck": 0},
        {"bottleneck": True},
    ):
        with pytest.raises(student.UserError, match="student: got .*, allowed: "):
            member.effective(unit, wrong)


def test_a_network_without_convolutions_says_so():
    model = seeded(networks.Mlp)
    with pytest.raises(student.Untreatable, match="no layer that these changes apply to"):
        engine.compress(model, Recipe.of([Step("student", "", {"separable": True})]), [noise(1, 20)])


def test_bits_of_a_layer_go_to_what_a_student_made_of_it():
    recipe = Recipe.of([Step("student", "", {"separable": True}), Step("bits", "stem", 8), Step("bits", "blocks.0.conv1", 8)])
    draft = engine.compress(seeded(networks.Residual), recipe, [IMAGE])
    assert set(draft.bits) == {"stem", "blocks.0.conv1.0", "blocks.0.conv1.1"}, draft.bits
    assert not [note for note in draft.notes if "went" in note]


def test_smooth_activations_become_relu():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.GELU(), nn.Conv2d(16, 16, 3), nn.Hardswish())
    made = engine.compress(model, Recipe.of([Step("student", "", {"activation": "relu"})]), [noise(1, 3, 12, 12)]).model
    assert [type(module) for module in made.modules() if not list(module.children())].count(nn.ReLU) == 2
    x = noise(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.allclose(made(x), model[2](model[0](x).relu()).relu())


def test_a_space_decides_about_each_knob():
    structure = coverage.analyse(seeded(networks.Residual), IMAGE)
    told = {"values": {"width": [1.0, 0.5, 0.25], "early": [False, True]}}
    space, _ = offers.build({"techniques": {"student": told}}, structure, {})
    assert [(domain.name, domain.choices) for domain in space.domains] == [
        ("student:width", (1.0, 0.5, 0.25)),
        ("student:early", (False, True)),
    ]
    assert space.decode({"student:width": 0.5, "student:early": True}).by("student") == {"": {"width": 0.5, "early": True}}
    assert space.decode(space.identity()).steps == ()
    with pytest.raises(student.UserError, match="name 'colour', allowed: width"):
        offers.build({"techniques": {"student": {"values": {"colour": [1, 2]}}}}, structure, {})


def test_families_restrict_a_space_and_bring_what_it_lacks():
    found = load_study(None, {"space": "cnn", "families": "student,bits"}).space_content()
    assert list(found["techniques"]) == ["student", "bits"]
    assert "width" in found["techniques"]["student"]["values"]
    assert found["techniques"]["bits"]["values"] == [32, 8]
    assert found["recovery"]["distill_steps"] == load_space("student").recovery["distill_steps"]
    with pytest.raises(student.UserError, match="families: got 'bits,colour', allowed: names, each once, of"):
        load_study(None, {"families": "bits,colour"})
