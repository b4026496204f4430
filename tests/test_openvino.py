"""OpenVINO, where it is installed: int8 files run in its integer kernels and agree with ONNX Runtime; what it has not is told."""

import pytest
import torch
from torch import nn

from autoslim import engine, plugins, spec, task
from autoslim.cli.main import call
from autoslim.errors import Untreatable, UserError
from autoslim.recipe import Recipe, Step

try:
    openvino = __import__("openvino")
except ModuleNotFoundError:
    openvino = None
installed = pytest.mark.skipif(openvino is None, reason="the extra openvino is not installed")


@pytest.mark.skipif(openvino is not None, reason="openvino is installed")
def test_without_the_package_the_message_names_it():
    with pytest.raises(UserError, match="runtimes openvino_cpu: needs the package 'openvino'"):
        plugins.load("runtimes", "openvino_cpu")
    assert spec.load_study(None, {"runtime": "openvino_cpu"}).runtime == "openvino_cpu"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(task, layers, runtime, float file, file with 8 bits in every layer)."""
    found, folder = task.load("autoslim.tasks.digits.task"), tmp_path_factory.mktemp("digits")
    model, example = found.model(), found.example_input()
    calibration = [inputs for inputs, _ in found.batches("train")][:4]
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    draft = engine.compress(model, Recipe.of(Step("bits", name, 8) for name in layers), [example])
    runtime = plugins.load("runtimes", "openvino_cpu")
    runtime.export(draft, example, calibration, folder / "float.onnx")
    assert runtime.finish(draft, folder / "float.onnx", calibration, folder / "int8.onnx") == ()
    return found, layers, runtime, folder / "float.onnx", folder / "int8.onnx"


def precisions(path):
    """How OpenVINO really computes the layers with weights, as the runtime opens the file."""
    nodes = plugins.load("runtimes", "openvino_cpu").open(path, 1)._compiled.get_runtime_model().get_ops()
    told = [node.get_rt_info() for node in nodes]
    return [facts["runtimePrecision"].astype(str) for facts in told if facts["layerType"].astype(str) in ("Convolution", "FullyConnected")]


@installed
def test_eight_bits_run_as_integers(digits):
    _, layers, _, floats, integers = digits
    assert set(precisions(floats)) == {"f32"}
    found = precisions(integers)
    assert len(found) == len(layers)
    assert sum(kind in ("u8", "i8") for kind in found) == len(layers), found


@installed
def test_eight_bits_agree_with_onnx_runtime_and_with_float(digits):
    found, _, runtime, floats, integers = digits
    other = plugins.load("runtimes", "onnxruntime_cpu")
    mine, theirs, exact = runtime.open(integers, 1), other.open(integers, 1), runtime.open(floats, 1)
    same, right = [], []
    for x, _ in found.batches("val"):
        guesses = mine.run(x).argmax(1)
        same.append(guesses == theirs.run(x).argmax(1))
        right.append(guesses == exact.run(x).argmax(1))
    assert torch.cat(same).float().mean() >= 0.99
    assert torch.cat(right).float().mean() >= 0.99


def has_brain():
    return openvino is not None and "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.skipif(not has_brain(), reason="OpenVINO's CPU plugin has no bfloat16 on this processor, or is not installed")
@pytest.mark.parametrize("some", [False, True], ids=["all layers", "one layer"])
def test_bfloat16_computes_in_bfloat16_and_agrees(digits, some, tmp_path):
    found, layers, runtime, floats, _ = digits
    model, example = found.model(), found.example_input()
    calibration = [inputs for inputs, _ in found.batches("train")][:1]
    draft = engine.compress(model, Recipe.of(Step("bits", name, "bf16") for name in (layers[:1] if some else layers)), [example])
    notes = runtime.finish(draft, floats, calibration, tmp_path / "brain.onnx")
    assert [("compute in bf16 too" in note) for note in notes] == ([True] if some else []), "one precision for all float kernels"
    assert set(precisions(tmp_path / "brain.onnx")) == {"bf16"}
    mine, exact = runtime.open(tmp_path / "brain.onnx", 1), runtime.open(floats, 1)
    pairs = [(mine.run(x), exact.run(x)) for x, _ in found.batches("val")]
    assert torch.cat([one.argmax(1) == other.argmax(1) for one, other in pairs]).float().mean() >= 0.99
    assert any(not torch.equal(one, other) for one, other in pairs), "it is another arithmetic"
    if not some:
        assert (tmp_path / "brain.onnx").stat().st_size < 0.6 * floats.stat().st_size


@installed
def test_bfloat16_is_offered_where_the_processor_has_it():
    assert ("bf16" in plugins.load("runtimes", "openvino_cpu").supports["bits"]) == has_brain()


@installed
def test_what_only_onnx_runtime_has_is_refused(tmp_path):
    class Heard(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0][:, -1])

    model, example = Heard().eval(), torch.randn(1, 6, 8)
    draft = engine.compress(model, Recipe.of([Step("bits", "rnn", 8)]), [example])
    runtime = plugins.load("runtimes", "openvino_cpu")
    runtime.export(draft, example, [example], tmp_path / "base.onnx")
    with pytest.raises(Untreatable, match="openvino_cpu: has no DynamicQuantizeLSTM; allowed bits of these layers: 32"):
        runtime.finish(draft, tmp_path / "base.onnx", [example], tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["base.onnx"]


@installed
def test_ranges_found_at_every_run_are_computed_in_float_and_a_note_says_so(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16)).eval(), torch.randn(8, 32)
    draft = engine.compress(model, Recipe.of(Step("bits", name, {"format": 8, "ranges": "dynamic"}) for name in ("0", "2")), [x])
    runtime, other = plugins.load("runtimes", "openvino_cpu"), plugins.load("runtimes", "onnxruntime_cpu")
    runtime.export(draft, x[:1], [x], tmp_path / "base.onnx")
    notes = runtime.finish(draft, tmp_path / "base.onnx", [x], tmp_path / "model.onnx")
    assert [note.split(":")[1].strip() for note in notes] == ["0, 2"]
    assert "computes in float" in notes[0]
    assert set(precisions(tmp_path / "model.onnx")) == {"f32"}
    mine, theirs = (one.open(tmp_path / "model.onnx", 1).run(10 * x) for one in (runtime, other))
    exact = other.open(tmp_path / "base.onnx", 1).run(10 * x)
    assert (mine - theirs).abs().max() < (mine - exact).abs().max() / 10
    assert not torch.equal(mine, exact), "it rounds as the file says"


@installed
@pytest.mark.slow
def test_a_search_ships_files_for_it(tmp_path, capsys):
    words = ["search", "digits", "--runtime", "openvino_cpu", "--max-samples", "128", "--trials", "6", "--verify", "2", "--quiet"]
    assert call([*words, "--strategy", "random", "--out", str(tmp_path / "out")], False) in (0, 3), capsys.readouterr().err
    assert "openvino_cpu" in (tmp_path / "out" / "front.csv").read_text()
