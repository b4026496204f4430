"""rewriting.py: a compressed model in the graph of the original. The oracles are PyTorch and the ordinary export."""

import os
from collections import Counter
from dataclasses import replace

import networks
import onnx
import pytest
import torch
import torch.nn.functional as F
from networks import noise, seeded
from torch import nn

from autoslim import coverage, engine, plugins, rewriting, task
from autoslim.baking import baked
from autoslim.engine import Draft
from autoslim.errors import ExportFailed
from autoslim.inputs import call
from autoslim.recipe import Recipe, Step
from autoslim.runtimes import onnxruntime_cpu
from autoslim.runtimes.onnxruntime_cpu import Member, agree

TOLERANCE = 2e-4  # a rewritten graph is believed at 1e-4, and float32 kernels of two libraries sum in different orders
TRACE = onnxruntime_cpu._dynamo


class Kernels(nn.Module):
    """Pointwise, depthwise and grouped convolutions, a kernel that belongs to no layer, and a batch norm that cannot be folded."""

    def __init__(self):
        super().__init__()
        self.filter, self.norm = nn.Parameter(torch.randn(16, 1, 3, 3) / 3), nn.BatchNorm2d(16)
        self.up, self.dw, self.bn = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32)
        self.down, self.grouped = nn.Conv2d(32, 16, 3, padding=1), nn.Conv2d(16, 16, 3, groups=4)
        self.out, self.head = nn.Conv2d(16, 32, 1), nn.Linear(32, 4)

    def forward(self, x):
        x = F.relu(self.bn(self.dw(F.relu(self.up(x)))))
        x = F.relu(self.grouped(F.relu(self.down(x))))
        x = self.norm(F.relu(F.conv2d(x, self.filter, padding=1, groups=16)))
        return self.head(F.relu(self.out(x)).mean((2, 3)))


class Tokens(nn.Module):
    """An encoder block on sequences: linear layers on three axes become products with transposed constants."""

    class Block(nn.Module):
        def __init__(self, width=16):
            super().__init__()
            self.norm1, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
            self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 48), nn.Linear(48, width)

        def forward(self, x):
            y = self.norm1(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    def __init__(self):
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(6, 16), self.Block(), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


class Steps(nn.Module):
    """Linear layers on every step of a sequence, the first of them large enough for a low rank; two outputs."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.head = nn.Linear(16, 48), nn.Linear(48, 32), nn.Linear(32, 4, bias=False)

    def forward(self, x):
        y = F.relu(self.down(F.relu(self.up(x))))
        return {"scores": self.head(y), "width": y.amax((1, 2))}


class View(nn.Module):
    """The width of a layer is written into the graph as a constant of a Reshape."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 32, 3, padding=1), nn.Linear(32 * 16, 24), nn.Linear(24, 4)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.head(F.relu(self.fc(x.view(-1, self.conv.out_channels * 16))))


#: name -> (network, the shape of one sample)
NETWORKS = {
    "residual": (networks.Residual, (3, 8, 8)),
    "kernels": (Kernels, (16, 8, 8)),
    "tokens": (Tokens, (5, 6)),
    "steps": (Steps, (5, 16)),
    "shared": (networks.Shared, (16,)),
    "gru": (networks.Recurrent, (7, 12)),
    "view": (View, (3, 8, 8)),
}
VALUES = {
    "channels": 0.6,
    "depth": True,
    "rank": 0.5,
    "spatial": {"method": "spatial", "share": 0.5},
    "sparsity": 0.5,
    "student": {"width": 0.5, "depth": 0.5},
}


class Case:
    """A network with the file of its untouched form."""

    def __init__(self, name, folder):
        build, shape = NETWORKS[name]
        self.model = shaken(baked(seeded(build), noise(1, *shape)), 0.1)
        self.example, self.samples = noise(1, *shape), [noise(4, *shape, seed=seed) for seed in (1, 2)]
        self.other = noise(3, *shape, seed=3)
        self.structure = coverage.analyse(self.model, self.example)
        self.file = folder / f"{name}.onnx"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(onnxruntime_cpu, "_dynamo", TRACE)  # the original may be traced, whatever a test forbids
            assert Member().export(Draft(self.model, self.structure, self.example), self.example, [], self.file) == ()

    def steps(self, kind):
        """One step per unit that a technique offers and that the value changes."""
        technique = "rank" if kind == "spatial" else kind
        member = plugins.load("techniques", technique)
        found = {name: member.effective(unit, VALUES[kind]) for name, unit in member.units(self.structure).items()}
        return [Step(technique, name, value) for name, value in found.items() if value is not None]

    def draft(self, *steps):
        return engine.compress(self.model, Recipe.of(steps), self.samples, structure=self.structure)

    def rewrite(self, draft, path, member=None):
        return (member or Member())._rewrite(draft, self.example, self.samples, path, self.file, self.model)

    def export(self, draft, path, member=None):
        return (member or Member()).export(draft, self.example, self.samples, path, original=(self.file, self.model))


def shaken(model, share, seed=0):
    """Every weight and statistic a little different, as training and recovery leave them; in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                moved = value * (1 + share * torch.rand(value.shape, generator=generator))
                value.copy_(moved + (0 if name.endswith("weight") and value.dim() > 1 or "var" in name else share / 10 * moved.std()))
            else:
                value += 7  # what a batch norm counts
    return model


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Networks this small gain nothing by a second thread, and lose much where the cores are not free."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """name -> Case, each made when first asked for."""
    folder, made = tmp_path_factory.mktemp("originals"), {}

    def case(name):
        if name not in made:
            made[name] = Case(name, folder)
        return made[name]

    return case


@pytest.fixture
def untraced(monkeypatch):
    """No export may trace; gives the list of attempts."""
    tried = []

    def refuse(*args):
        tried.append(args)
        raise AssertionError("traced")

    monkeypatch.setattr(onnxruntime_cpu, "_dynamo", refuse)
    return tried


def check(path, model, *batches):
    """The file computes what the model computes, by PyTorch."""
    session = Member().open(path, 1)
    for inputs in batches:
        with torch.no_grad():
            expected = call(model, inputs)
        torch.testing.assert_close(session.run(inputs), expected, rtol=TOLERANCE, atol=TOLERANCE)


#: network -> kinds of recipes that its graph can say; several names are one recipe
SAID = {
    "residual": ("channels", "depth", "rank", "spatial", "sparsity", "student", "channels depth rank"),
    "kernels": ("channels", "rank", "spatial", "sparsity", "student", "channels rank"),
    "tokens": ("channels", "depth", "rank", "sparsity", "student", "channels rank"),
    "steps": ("channels", "rank", "sparsity", "student", "channels rank sparsity"),
    "shared": ("channels", "rank", "sparsity", "student", "channels rank"),
}


@pytest.mark.parametrize("name", SAID)
def test_what_the_graph_can_say_is_written_and_computes_the_same(cases, name, tmp_path, untraced):
    case, member = cases(name), Member()
    for kinds in SAID[name]:
        steps = [step for kind in kinds.split() for step in case.steps(kind)]
        assert steps, kinds
        for learned in (False, True):
            draft, path = case.draft(*steps), tmp_path / f"{kinds}{learned}.onnx"
            if learned:
                shaken(draft.model, 0.02)
            assert case.rewrite(draft, path, member), (kinds, learned)
            check(path, draft.model, case.example, case.other)
    assert not untraced


def test_the_untouched_model_rewritten_is_the_untouched_file(cases, tmp_path):
    case = cases("residual")
    assert case.rewrite(case.draft(), tmp_path / "m.onnx")
    assert onnx.load(str(tmp_path / "m.onnx")).graph.initializer == onnx.load(str(case.file)).graph.initializer


def integers(path):
    """(shapes of the integer weights, the kinds of kernels that run on them), both counted."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = f"{path}.optimised", 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shapes = Counter(tuple(item.dims) for item in onnx.load(str(path)).graph.initializer if item.data_type == onnx.TensorProto.INT8)
    kinds = Counter(node.op_type for node in onnx.load(f"{path}.optimised").graph.node)
    return shapes, kinds


#: network -> (recipe, layers that run as integers: all, and one alone)
TWICE = {
    "residual": ("channels depth rank", "blocks.1.conv2"),
    "kernels": ("channels rank", "up"),
    "tokens": ("channels rank", "block.down"),
    "steps": ("channels rank", "up"),
}


@pytest.mark.parametrize("name", TWICE)
def test_it_is_the_ordinary_export_in_values_bytes_and_integers(cases, name, tmp_path):
    case, member, (kinds, alone) = cases(name), Member(), TWICE[name]
    steps = [step for kind in kinds.split() for step in case.steps(kind) if step.value is not True or step.unit == "blocks.0"]
    draft = case.draft(*steps)
    assert alone in draft.replaced, "a chain is among the layers"
    mine, ordinary = tmp_path / "mine.onnx", tmp_path / "ordinary.onnx"
    assert case.rewrite(draft, mine, member)
    assert member.export(draft, case.example, case.samples, ordinary) == ()
    for inputs in (case.example, case.other):
        one, other = (member.open(path, 1).run(inputs) for path in (mine, ordinary))
        torch.testing.assert_close(one, other, rtol=TOLERANCE, atol=TOLERANCE)
    assert mine.stat().st_size <= 1.02 * ordinary.stat().st_size
    layers = [layer for layer, module in case.model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear) and draft.has(layer)]
    for chosen in (layers, [alone]):
        found = []
        for path in (mine, ordinary):
            integer = path.with_suffix(".int8.onnx")
            notes = member.finish(replace(draft, bits=dict.fromkeys(chosen, 8)), path, case.samples, integer)
            found.append((notes, *integers(integer)))
        assert found[0] == found[1]
        assert sum(found[0][1].values()) >= len(list(draft.parts(alone)))


def test_names_are_distinct_beside_those_that_the_exporter_counts(cases, tmp_path):
    """The exporter calls nodes node_conv2d, node_conv2d_1, ...; quantisation chooses nodes by their names."""
    case = cases("kernels")
    assert case.rewrite(case.draft(*case.steps("rank")), tmp_path / "m.onnx")
    graph = onnx.load(str(tmp_path / "m.onnx")).graph
    for names in ([node.name for node in graph.node], [out for node in graph.node for out in node.output]):
        assert len(names) == len(set(names))
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)


@pytest.mark.parametrize(("name", "kind"), [("gru", "channels"), ("view", "channels"), ("view", "student")])
def test_what_the_graph_cannot_say_is_left_to_the_ordinary_export(cases, name, kind, tmp_path):
    """A recurrent weight lies in the graph in another order; the Reshape keeps the original's width."""
    case, path = cases(name), tmp_path / "m.onnx"
    draft = case.draft(*case.steps(kind))
    assert not case.rewrite(draft, path)
    assert list(tmp_path.iterdir()) == []
    if name == "view" and kind == "channels":
        assert case.export(draft, path) == ()
        check(path, draft.model, case.example, case.other)
        assert list(tmp_path.iterdir()) == [path]


def test_a_network_of_the_users_builder_is_not_tried(cases, tmp_path, monkeypatch):
    case = cases("residual")
    draft = case.draft()
    draft.replaced.add("")
    monkeypatch.setattr(rewriting.Template, "write", lambda *args: pytest.fail("tried"))
    assert not case.rewrite(draft, tmp_path / "m.onnx")


def test_a_layer_that_runs_twice_is_not_factorised_in_the_graph(cases, tmp_path):
    case = cases("shared")
    draft = case.draft()
    draft.replace("a", nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 16)))
    assert not case.rewrite(draft, tmp_path / "m.onnx")


def test_one_constant_of_two_equal_weights_is_not_written_over(tmp_path):
    """The exporter keeps one of two equal tensors. A change too small for the outputs to show must not reach the other."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8)).eval()
    example, source = noise(2, 8), tmp_path / "original.onnx"
    draft = Draft(model, coverage.analyse(model, example), example)
    Member().export(draft, example, [], source)
    kept = {item.name for item in onnx.load(str(source)).graph.initializer} & {"1.bias", "3.bias"}
    assert len(kept) == 1, "the exporter still merges equal tensors"
    changed = engine.compress(model, Recipe(), [example], structure=draft.structure)
    with torch.no_grad():
        changed.model.get_submodule(kept.pop().split(".")[0]).bias += 1e-6
    assert not Member()._rewrite(changed, example, [], tmp_path / "m.onnx", source, model)


# -- a wrong graph is never believed -----------------------------------------------------------------------------------------


def swapped(proto, state, found=rewriting.find_places):
    """Places of two weights of one shape, exchanged."""
    places = found(proto, state)
    one, other = "blocks.0.conv1.weight", "blocks.1.conv1.weight"
    places[one], places[other] = places[other], places[one]
    return places


def lost(proto, state):
    return {}


def unknown(proto, state):
    raise KeyError("a graph of another kind")


@pytest.mark.parametrize("wrong", [swapped, lost, unknown])
def test_a_wrong_rewrite_is_never_believed(cases, wrong, tmp_path, monkeypatch):
    case, path = cases("residual"), tmp_path / "m.onnx"
    draft = case.draft(*case.steps("sparsity"))
    monkeypatch.setattr(rewriting, "find_places", wrong)
    assert not case.rewrite(draft, path)
    assert list(tmp_path.iterdir()) == []
    if wrong is swapped:
        assert case.export(draft, path) == ()
        check(path, draft.model, case.example, case.other)


def test_a_wrong_rewrite_leaves_no_file_where_the_ordinary_export_fails_too(cases, tmp_path, monkeypatch, untraced):
    """A float form that lies in its place is taken for finished by recipes that differ in bits alone."""
    case = cases("residual")
    monkeypatch.setattr(rewriting, "find_places", swapped)
    with pytest.raises(ExportFailed, match="traced"):
        case.export(case.draft(*case.steps("sparsity")), tmp_path / "m.onnx")
    assert untraced
    assert list(tmp_path.iterdir()) == []


def test_no_other_process_meets_a_file_that_is_not_checked_yet(cases, tmp_path):
    case, path, opened = cases("residual"), tmp_path / "m.onnx", []

    class Watched(Member):
        def open(self, file, threads):
            opened.append((file.parent, path.exists()))
            return super().open(file, threads)

    assert case.rewrite(case.draft(*case.steps("channels")), path, Watched())
    assert opened == [(tmp_path, False)]
    assert list(tmp_path.iterdir()) == [path]


def test_every_output_is_compared_by_itself_and_integers_exactly():
    large, small, index = noise(2, 3) * 1e6, noise(2, 4, seed=1), torch.tensor([1, 2])
    assert agree((large, small, index), (large * (1 + 1e-6), small, index))
    assert not agree((large, small, index), (large, small * 1.01, index)), "the large output hides nothing"
    assert not agree((large, small, index), (large, small, index + 1))
    assert not agree((large, small), (large, small[:1]))
    assert not agree(small, small * float("nan"))


# -- originals --------------------------------------------------------------------------------------------------------------


def test_a_member_does_not_mix_up_its_originals(cases, tmp_path, untraced):
    member = Member()
    for name in ("residual", "steps", "residual"):
        case = cases(name)
        draft, path = case.draft(*case.steps("channels")), tmp_path / f"{name}.onnx"
        assert case.export(draft, path, member) == ()
        check(path, draft.model, case.example, case.other)


def test_another_model_in_the_same_place_is_another_original(cases, tmp_path, untraced):
    member, place = Member(), tmp_path / "untouched.onnx"
    for name in ("residual", "steps"):
        case, path = cases(name), tmp_path / "m.onnx"
        (tmp_path / "next").write_bytes(case.file.read_bytes())
        os.replace(tmp_path / "next", place)
        draft = case.draft(*case.steps("channels"))
        assert member.export(draft, case.example, case.samples, path, original=(place, case.model)) == ()
        check(path, draft.model, case.example, case.other)


def test_an_original_without_its_file_is_exported_in_the_ordinary_way(cases, tmp_path):
    case = cases("steps")
    assert not Member()._rewrite(case.draft(), case.example, [], tmp_path / "m.onnx", tmp_path / "none.onnx", case.model)


def test_the_note_on_a_fixed_batch_is_not_lost(cases, tmp_path, untraced):
    case, source = cases("steps"), tmp_path / "fixed.onnx"
    proto = onnx.load(str(case.file))
    onnx.helper.set_model_props(proto, {entry.key: "1" if entry.key == "autoslim.batch" else entry.value for entry in proto.metadata_props})
    onnx.save(proto, str(source))
    notes = Member().export(case.draft(), case.example, case.samples, tmp_path / "m.onnx", original=(source, case.model))
    assert notes == ("the file takes a fixed batch: the exporter could not free the batch axis",)


def test_nothing_of_the_embedded_network_needs_tracing_again(tmp_path, monkeypatch):
    found = task.load("autoslim.tasks.digits.task")
    model, example = found.model(), found.example_input()
    samples = [inputs for inputs, _ in found.batches("train")][:1]
    structure, member, source = coverage.analyse(model, example), Member(), tmp_path / "untouched.onnx"
    member.export(Draft(model, structure, example), example, samples, source)

    def all_of(technique, value, *units):
        known = plugins.load("techniques", technique).units(structure)
        return [Step(technique, name, value) for name in known if not units or name in units]

    recipes = {
        "channels": all_of("channels", 0.5),
        "depth": all_of("depth", True),
        "rank": all_of("rank", 0.5),
        "spatial": all_of("rank", {"method": "spatial", "share": 0.25}),
        "student": [Step("student", "", {"width": 0.5, "depth": 0.5})],
        "all": [*all_of("channels", 0.75), *all_of("depth", True, "stages.0.1", "stages.2.1"), *all_of("rank", 0.5)],
    }
    traced = []
    monkeypatch.setattr(onnxruntime_cpu, "_dynamo", lambda *args: traced.append(args))
    for name, steps in recipes.items():
        draft, path = engine.compress(model, Recipe.of(steps), samples, structure=structure), tmp_path / f"{name}.onnx"
        assert member.export(draft, example, samples, path, original=(source, model)) == (), name
        check(path, draft.model, example, samples[0][:5])
    assert traced == []
