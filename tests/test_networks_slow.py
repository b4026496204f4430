"""Real architectures: analysed, compressed, exported, agreeing with PyTorch; none ends in a trace."""

import time

import pytest
import torch
import torchvision
import zoo
from torch import nn
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from autoslim import coverage, plugins
from autoslim.engine import compress
from autoslim.inputs import call, distance
from autoslim.layers import count
from autoslim.recipe import Recipe, Step

pytestmark = pytest.mark.slow


class Gru(nn.Module):
    def __init__(self, kind=nn.GRU, both=False):
        super().__init__()
        self.rnn = kind(13, 64, 2, batch_first=True, bidirectional=both)
        self.head = nn.Linear(128 if both else 64, 10)

    def forward(self, x):
        return self.head(self.rnn(x)[0].mean(1))


class Encoder(nn.Module):
    """A pre-norm Transformer encoder with dict inputs and a dict output."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, norm_first=True) for _ in range(2)])
        self.head = nn.Linear(64, 5)

    def forward(self, tokens, mask):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return {"logits": self.head((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))}


IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
OPTIONS = {"googlenet": {"init_weights": False}, "vit_b_16": {"image_size": 64}}
#: analysed and cut; of each family the smaller network
NAMES = """resnet18 resnet50 mobilenet_v2 mobilenet_v3_small efficientnet_b0 densenet121 shufflenet_v2_x1_0 regnet_y_400mf squeezenet1_0
vgg16_bn googlenet convnext_tiny vit_b_16 swin_t"""
#: exported as well: name -> (network, example)
EXPORTED = {
    "resnet18": (torchvision.models.resnet18, IMAGE),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, IMAGE),
    "shufflenet": (torchvision.models.shufflenet_v2_x0_5, IMAGE),
    "vit": (lambda: VisionTransformer(64, 16, 2, 4, 64, 256), IMAGE),
    "swin": (lambda: SwinTransformer([4, 4], 48, [1, 2], [3, 6], [4, 4]), IMAGE),
    "bilstm": (lambda: Gru(nn.LSTM, True), torch.randn(1, 20, 13)),
    "encoder": (Encoder, {"tokens": torch.randint(0, 100, (1, 12)), "mask": torch.ones(1, 12)}),
    "bert": zoo.SMALL["bert"][:2],
    "gpt2": zoo.SMALL["gpt2"][:2],
}


def halved(structure, share=0.5):
    """The recipe that keeps ``share`` of the channels and heads of every group."""
    steps = []
    for name in ("channels", "heads"):
        technique = plugins.load("techniques", name)
        units = technique.units(structure).items()
        steps += [Step(name, key, value) for key, unit in units if (value := technique.effective(unit, share)) is not None]
    return Recipe.of(steps)


@pytest.fixture(scope="module", params=NAMES.split())
def architecture(request):
    """(network, structure, seconds that the analysis took)."""
    torch.manual_seed(0)
    model = torchvision.models.get_model(request.param, **OPTIONS.get(request.param, {})).eval()
    start = time.process_time()
    structure = coverage.analyse(model, IMAGE, seconds=120)  # other work on the machine is not the analysis
    return model, structure, time.process_time() - start


def test_every_architecture_is_reached_and_its_macs_are_halved(architecture):
    model, structure, seconds = architecture
    assert seconds < 15
    assert coverage.reach(structure)["params_share"] >= 0.9
    covered = {member.module for group in structure.groups.values() for member in group.members if not member.reads}
    assert set(structure.left_out) | covered >= set(structure.layers)
    draft = compress(model, halved(structure, 0.4), [IMAGE], structure=structure)
    assert count(draft.model, IMAGE)[1] <= 0.5 * structure.macs


#: parameters above which a layer is left to the other techniques where one costs minutes on it; units of each of those techniques
LARGE, FEW = 1_000_000, 2
COSTLY = ("rank", "sparsity", "gradual", "codebook", "qat", "regularised")


def mixed(structure):
    """The recipe of every technique that applies but students: of each some units, one block less, and 8 bits for every second layer."""
    steps, gone = [], ()
    for name in plugins.names("techniques"):
        member = plugins.load("techniques", name)
        units = {
            key: told for key, unit in member.units(structure).items() if (told := member.effective(unit, zoo.VALUES[name])) is not None
        }
        if name == "depth":
            units = dict(list(units.items())[-1:])
            gone = tuple(f"{block}." for block in units)
        elif name in COSTLY:
            small = [key for key in units if structure.layers.get(key) is not None and 0 < structure.layers[key].params <= LARGE]
            units = {key: units[key] for key in small[len(small) // 3 :][:FEW]}
        elif name == "bits":
            units = dict(list(units.items())[1::2])
        steps += [Step(name, key, value) for key, value in units.items() if name != "student"]
    return Recipe.of(step for step in steps if not f"{step.unit}.".startswith(gone or ("-",)) or step.technique == "depth")


def test_every_technique_that_applies_goes_through_export_and_the_file_agrees(architecture, tmp_path):
    model, structure, _ = architecture
    recipe = mixed(structure)
    tried = {step.technique for step in recipe.steps}
    assert tried >= {"bits", "channels", *COSTLY}
    draft = compress(model, recipe, [IMAGE], structure=structure)
    base, path = zoo.ship_and_compare(draft, IMAGE, tmp_path)
    assert path.stat().st_size < base.stat().st_size


def test_a_student_of_every_architecture_is_smaller(architecture):
    model, structure, _ = architecture
    draft = compress(model, Recipe.of([Step("student", "", zoo.VALUES["student"])]), [IMAGE], structure=structure)
    assert call(draft.model, IMAGE).shape == call(model, IMAGE).shape
    assert count(draft.model, IMAGE)[1] < 0.7 * structure.macs


@pytest.mark.parametrize("name", [name for name in EXPORTED if name != "mobilenet_v2"])
def test_halved_channels_and_heads_export_and_agree(name, tmp_path):
    """The file computes what the model computes."""
    build, example = EXPORTED[name]
    torch.manual_seed(0)
    model = build().eval()
    structure = coverage.analyse(model, example)
    draft = compress(model, halved(structure), [example], structure=structure)
    before, after = count(model, example), count(draft.model, example)
    assert all(b > a for b, a in zip(before, after, strict=True))
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    path = tmp_path / "model.onnx"
    runtime.export(draft, example, [example], path)
    with torch.no_grad():
        expected = call(draft.model, example)
    assert distance(runtime.open(path, 1).run(example), expected) < 1e-3
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("name", "most"), [("resnet18", 0.3), ("mobilenet_v2", 0.35), ("encoder", 0.8)])  # attention stays in float
def test_int8_on_every_layer_opens_and_is_smaller(name, most, tmp_path):
    build, example = EXPORTED[name]
    torch.manual_seed(0)
    model = build().eval()
    structure = coverage.analyse(model, example)
    bits = plugins.load("techniques", "bits")
    draft = compress(model, Recipe.of(Step("bits", unit, 8) for unit in bits.units(structure)), [example], structure=structure)
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    base, path = tmp_path / "base.onnx", tmp_path / "int8.onnx"
    runtime.export(draft, example, [example], base)
    notes = runtime.finish(draft, base, [example], path)
    runtime.open(path, 1).run(example)
    assert not notes
    assert path.stat().st_size < most * base.stat().st_size
