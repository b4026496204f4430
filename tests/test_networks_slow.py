"""Real architectures: analysed, compressed, exported, agreeing with PyTorch; none ends in a trace."""

import pytest
import torch
import torchvision
from torch import nn

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
NETWORKS = {
    **{
        name: (lambda name=name: torchvision.models.get_model(name), IMAGE, least)
        for name, least in (
            ("resnet18", 0.9),
            ("mobilenet_v2", 0.6),
            ("vgg11_bn", 0.9),
            ("squeezenet1_0", 0.5),
            ("densenet121", 0.8),
            ("shufflenet_v2_x0_5", 0.0),
        )
    },
    "gru": (Gru, torch.randn(1, 20, 13), 0.9),
    "bilstm": (lambda: Gru(nn.LSTM, True), torch.randn(1, 20, 13), 0.9),
    "encoder": (Encoder, {"tokens": torch.randint(0, 100, (1, 12)), "mask": torch.ones(1, 12)}, 0.1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_halved_channels_export_and_agree(name, tmp_path):
    """Every group halved: fewer parameters by what the coverage promises, and the file computes what the model computes."""
    build, example, least = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    structure = coverage.analyse(model, example)
    technique = plugins.load("techniques", "channels")
    units = technique.units(structure)
    covered = sum(structure.layers[layer].params for layer in structure.layers if layer not in structure.left_out)
    assert covered >= least * structure.params
    assert set(structure.left_out) | {layer for unit in units.values() for layer in unit.layers} >= set(structure.layers)
    steps = [Step("channels", key, value) for key, unit in units.items() if (value := technique.effective(unit, 0.5)) is not None]
    draft = compress(model, Recipe.of(steps), [example], structure=structure)
    before, after = count(model, example), count(draft.model, example)
    assert all(b > a for b, a in zip(before, after, strict=True)) or not steps
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    path = tmp_path / "model.onnx"
    runtime.export(draft, example, [example], path)
    with torch.no_grad():
        expected = call(draft.model, example)
    assert distance(runtime.open(path, 1).run(example), expected) < 1e-3
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(("name", "most"), [("resnet18", 0.3), ("mobilenet_v2", 0.35), ("encoder", 0.8)])  # attention stays in float
def test_int8_on_every_layer_opens_and_is_smaller(name, most, tmp_path):
    build, example, _ = NETWORKS[name]
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
