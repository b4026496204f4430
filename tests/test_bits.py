"""Number formats: what becomes of the kernels, the bytes and the outputs; ranges and rounding against their definitions."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import seeded
from torch import nn

from autoslim import coverage, equalising, formats, kernels, onnx_recurrent, plugins, prediction, ranges, rounding
from autoslim.engine import Draft, compress
from autoslim.inputs import call
from autoslim.offers import build
from autoslim.recipe import Recipe, Step

RUNTIME = "onnxruntime_cpu"


class Convolutions(nn.Module):
    """A chain, a shortcut and a head."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 32)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.body(x)).mean((2, 3)))


class Words(nn.Module):
    """A table, an LSTM and a GRU."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(64, 32)
        self.lstm, self.gru = nn.LSTM(32, 24, batch_first=True), nn.GRU(24, 24, batch_first=True)

    def forward(self, tokens):
        return self.gru(self.lstm(self.table(tokens))[0])[0]


class Sink(nn.Module):
    """A feed-forward part that gives one huge token, as trained Transformers do (Sun et al. 2024), and normalises it away after."""

    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)
        with torch.no_grad():
            self.up.bias[0] = -4.0
            self.up.weight[0] = 0.0
            self.up.weight[0, 0] = 60.0
            self.down.weight[:, 0] = torch.linspace(-0.9, 0.9, 32)

    def forward(self, x):
        return self.norm(x + self.down(torch.nn.functional.gelu(self.up(x))))


def images(n):
    return torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(n))


def tokens(n):
    return torch.randint(64, (n, 7), generator=torch.Generator().manual_seed(n))


def sequences(n):
    x = torch.randn(n, 16, 32, generator=torch.Generator().manual_seed(n))
    x[:, :, 0] = -1.0
    x[:, 0, 0] = 6.0
    return x


NETS = {"convolutions": (Convolutions, images), "words": (Words, tokens), "sink": (Sink, sequences)}


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """{name: (model, inputs, structure, float file)}."""
    found = {}
    for name, (build_net, inputs) in NETS.items():
        model = seeded(build_net)
        structure = coverage.analyse(model, inputs(1))
        path = tmp_path_factory.mktemp(name) / "float.onnx"
        plugins.load("runtimes", RUNTIME).export(Draft(model, structure, inputs(1)), inputs(1), [], path)
        found[name] = model, inputs, structure, path
    return found


def shipped(net, value, tmp_path, layers=None):
    """(file, notes, outputs, outputs of the model) with one value for the named layers, or for all."""
    model, inputs, structure, base = net
    runtime = plugins.load("runtimes", RUNTIME)
    known = plugins.load("techniques", "bits").units(structure)
    recipe = Recipe.of(Step("bits", name, value) for name in layers or known)
    draft = compress(model, recipe, [inputs(8)], structure=structure)
    path = tmp_path / "model.onnx"
    notes = runtime.finish(draft, base, [inputs(32), inputs(31)], path)
    with torch.no_grad():
        return path, notes, runtime.open(path, 1).run(inputs(20)), call(model, inputs(20))


def optimised(path, folder):
    """Kernels that ONNX Runtime really runs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def off(got, want):
    """Mean over positions of the error's share of the position's own energy."""
    return float(((got - want).square().sum(-1) / want.square().sum(-1)).mean())


# -- kernels and bytes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "limit"), [(8, 0.002), ("w4a8", 0.04)])
def test_convolutions_run_as_integers(nets, value, limit, tmp_path):
    path, notes, got, want = shipped(nets["convolutions"], value, tmp_path)
    run = optimised(path, tmp_path)
    assert run["QLinearConv"] == 2
    assert run["QGemm"] + run["MatMulNBits"] == 1
    assert run["QLinearAdd"] == 1
    assert not {"Conv", "Gemm", "MatMul", "Relu"} & set(run)
    assert off(got, want) < limit
    assert notes == ()


def test_few_rows_are_multiplied_in_blocks_of_four_bits(nets, tmp_path):
    path, _, got, want = shipped(nets["sink"], "w4a8", tmp_path)
    assert optimised(path, tmp_path)["MatMulNBits"] == 0, "sixteen rows per sample: slower than float that way"
    model, structure = seeded(lambda: nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32))), None
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    structure = coverage.analyse(model, x[:1])
    base = tmp_path / "base.onnx"
    plugins.load("runtimes", RUNTIME).export(Draft(model, structure, x[:1]), x[:1], [], base)
    path, _, got, want = shipped((model, lambda n: x[:n], structure, base), "w4a8", tmp_path)
    run = optimised(path, tmp_path)
    assert (run["MatMulNBits"], run["QGemm"] + run["MatMulIntegerToFloat"]) == (1, 1), "48 inputs are no multiple of the block"
    assert off(got, want) < 0.05


def test_products_of_matrices_give_floats_so_that_one_huge_output_costs_nothing(nets, tmp_path):
    path, _, got, want = shipped(nets["sink"], 8, tmp_path)
    run = optimised(path, tmp_path)
    assert run["MatMulIntegerToFloat"] == 2
    assert run["QLinearMatMul"] == 0
    assert off(got, want) < 0.002
    bytes_of_outputs = [node for node in onnx.load(path).graph.node if node.op_type == "QuantizeLinear"]
    assert len(bytes_of_outputs) == 2, "the two inputs, no output"


def test_an_equaliser_mends_an_outlying_channel(nets, tmp_path):
    _, _, plain, want = shipped(nets["sink"], {"format": 8, "equalise": "never", "fallback": "never"}, tmp_path)
    _, _, mended, _ = shipped(nets["sink"], 8, tmp_path)
    assert off(mended, want) < off(plain, want) / 2


def test_a_layer_that_integers_would_spoil_computes_in_float_and_says_so(nets, tmp_path, capsys):
    insisted = shipped(nets["sink"], {"format": 8, "equalise": "never", "fallback": "never"}, tmp_path)
    path, notes, got, want = shipped(nets["sink"], {"format": 8, "equalise": "never"}, tmp_path)
    assert off(got, want) < off(insisted[2], want) / 10
    run = optimised(path, tmp_path)
    fallen = plugins.load("runtimes", RUNTIME).fell(path)
    assert run["MatMulIntegerToFloat"] + run["QGemm"] == 2 - len(fallen)
    assert run["MatMul"] == len(fallen) >= 1
    assert all(any(layer in note and "computes in float" in note for note in notes) for layer in fallen)
    stored = {
        item.name: item.data_type
        for item in onnx.load(path).graph.initializer
        if len(item.dims) > 1 and not item.name.endswith("_step")  # a step for each output
    }
    assert onnx.TensorProto.FLOAT not in stored.values(), "its weights are as narrow as they were told to be"

    from autoslim.cli.main import call as run_command

    assert run_command(["why", str(path), "--json"], False) == 0
    found = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["kind"] == "float"]
    assert {one["layer"] for one in found} == set(fallen)
    assert all("would differ by" in one["what"] and "fallback: never" in one["fix"] for one in found)


def test_a_bias_takes_up_the_mean_error_of_the_outputs(nets, tmp_path):
    """Weights of four bits shift the mean of every output; the corrected file's mean is nearer to the network's."""

    def shift(value):
        _, _, got, want = shipped(nets["convolutions"], value, tmp_path)
        return float((got - want).mean(0).square().sum())

    plain = {"format": "w4a8", "rounding": "nearest", "bias": "plain"}
    assert shift({"format": "w4a8", "rounding": "nearest"}) < shift(plain) / 3


def test_tables_and_lstm_run_as_integers_and_a_gru_says_that_it_cannot(nets, tmp_path):
    path, notes, got, want = shipped(nets["words"], 8, tmp_path)
    run = optimised(path, tmp_path)
    assert run["DynamicQuantizeLSTM"] == 1
    assert (run["DequantizeLinear"], run["QuantizeLinear"], run["GRU"]) == (0, 0, 1)
    graph = onnx.load(path).graph
    stored = {item.name: item for item in graph.initializer}
    look_up = next(node for node in graph.node if node.op_type == "Gather" and list(stored[node.input[0]].dims) == [64, 32])
    assert stored[look_up.input[0]].data_type == onnx.TensorProto.INT8
    assert [node.op_type for node in graph.node if look_up.output[0] in node.input] == ["Cast"], "widened after the look-up"
    assert [note.split(":")[1].strip() for note in notes] == ["gru"]
    assert "integer kernels for LSTM alone" in notes[0]
    assert off(got, want) < 0.005
    assert path.stat().st_size < nets["words"][3].stat().st_size * 0.5


class Both(nn.Module):
    """A recurrent layer of a kind in both directions."""

    def __init__(self, kind):
        super().__init__()
        self.cell = kind(13, 64, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.cell(x)[0]


@pytest.fixture(scope="module", params=[nn.GRU, nn.LSTM], ids=lambda kind: kind.__name__)
def cut(request, tmp_path_factory):
    """(network, inputs, structure, float file) of a recurrent layer so large that the exporter cuts its weights."""
    model, x = seeded(Both, request.param), torch.randn(12, 6, 13, generator=torch.Generator().manual_seed(0))
    base, structure = tmp_path_factory.mktemp("cut") / "base.onnx", coverage.analyse(model, x[:1])
    plugins.load("runtimes", RUNTIME).export(Draft(model, structure, x[:1]), x[:1], [], base)
    return model, x, structure, base


@pytest.mark.parametrize("value", ["w8", 8])
def test_weights_that_the_exporter_leaves_cut_in_the_graph_are_narrow_too(cut, value, tmp_path):
    """Beyond some size it writes slices of the weight in the place of the weight."""
    model, x, structure, base = cut
    path, runtime = tmp_path / "model.onnx", plugins.load("runtimes", RUNTIME)
    runtime.finish(Draft(model, structure, x[:1], bits={"cell": value}), base, [x], path)
    narrow = [item for item in onnx.load(path).graph.initializer if item.data_type == onnx.TensorProto.INT8 and len(item.dims) > 1]
    assert sum(len(item.raw_data) for item in narrow) >= sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert path.stat().st_size < 0.4 * base.stat().st_size
    with torch.no_grad():
        assert off(runtime.open(path, 1).run(x), call(model, x)) < 0.001


@pytest.mark.parametrize(
    ("value", "share", "limit"),
    [
        *((16, 0.5, 1e-5), ("bf16", 0.5, 1e-4), ("w16", 0.5, 1e-8), ("w8", 0.25, 1e-3)),
        ({"format": "w4", "fallback": "never"}, 0.125, 0.05),
    ],
)
@pytest.mark.parametrize("net", NETS)
def test_narrow_storage_keeps_float_kernels_and_shrinks_the_file(nets, net, value, share, limit, tmp_path):
    base = nets[net][3]
    path, notes, got, want = shipped(nets[net], value, tmp_path)
    run, before = optimised(path, tmp_path), optimised(base, tmp_path)
    heavy = ("Conv", "FusedConv", "Gemm", "MatMul", "LSTM", "GRU")
    assert [run[op] for op in heavy] == [before[op] for op in heavy]
    looked_up = int(net == "words" and value in ("w8", "w16"))  # the rows of a table are widened as they are looked up
    assert run["Mul"] - before["Mul"] == looked_up, "weights are widened when the file is opened, not at every run"
    assert off(got, want) < limit
    assert notes == ()
    narrow = [item for item in onnx.load(path).graph.initializer if len(item.dims) > 1 and item.data_type != onnx.TensorProto.FLOAT]
    weights = sum(p.numel() for name, p in nets[net][0].named_parameters() if p.dim() > 1)
    stored = sum(len(item.raw_data) for item in narrow)
    assert 4 * weights * share <= stored <= 4 * weights * share * 1.3, "steps may add to the bytes of the weights"


def single(tmp_path, value, bias=True):
    """(file, notes, its outputs, the network's, inputs) of one linear layer whose inputs lie between -1 and 3."""
    model, x = (
        seeded(lambda: nn.Sequential(nn.Linear(16, 12, bias=bias))),
        torch.rand(40, 16, generator=torch.Generator().manual_seed(1)) * 4 - 1,
    )
    x[0, 0], x[0, 1] = -1.0, 3.0
    structure, base = coverage.analyse(model, x[:1]), tmp_path / "base.onnx"
    runtime = plugins.load("runtimes", RUNTIME)
    runtime.export(Draft(model, structure, x[:1]), x[:1], [], base)
    path = tmp_path / "one.onnx"
    notes = runtime.finish(Draft(model, structure, x[:1], bits={"0": value}), base, [x], path)
    with torch.no_grad():
        return path, notes, runtime.open(path, 1).run(x), model(x), (model[0], x)


def constants(path):
    return {item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(path).graph.initializer}


def test_sixteen_bit_integers_round_inputs_and_weights_and_compute_in_float(tmp_path, capsys):
    path, notes, got, want, (layer, x) = single(tmp_path, "w16a16")
    run = optimised(path, tmp_path)
    assert (run["QuantizeLinear"], run["DequantizeLinear"], run["Gemm"] + run["MatMul"]) == (1, 1, 1)
    step = np.float32(4 / 65535)
    zero = round(1 / float(step))
    rows = (np.clip(np.rint(x.numpy() / step) + zero, 0, 65535) - zero) * step
    weight = layer.weight.detach().numpy()
    steps = np.abs(weight).max(1, keepdims=True) / np.float32(32767)
    expected = rows @ (np.rint(weight / steps) * steps).T + layer.bias.detach().numpy()
    np.testing.assert_allclose(got.numpy(), expected, atol=2e-6)
    assert 1e-12 < off(got, want) < 1e-8
    stored = constants(path)
    assert {value.dtype for value in stored.values() if value.size == weight.size} == {np.dtype(np.int16)}

    from autoslim.cli.main import call as run_command

    assert run_command(["why", str(path), "--json"], False) == 0
    found = [one for one in json.loads(capsys.readouterr().out)["findings"] if one["kind"] == "float"]
    assert [one["layer"] for one in found] == ["0"]
    assert "computed in float" in found[0]["what"]


def test_one_step_for_a_whole_weight_and_a_range_around_zero(tmp_path):
    path, _, got, want, (layer, _) = single(tmp_path, {"format": 8, "per": "tensor", "zero": "symmetric", "ranges": "minmax"})
    stored = constants(path)
    scales = next(value for name, value in stored.items() if "weight" in name and name.endswith("scale"))
    np.testing.assert_allclose(scales, float(layer.weight.abs().max()) / 127, rtol=1e-6)
    points = [int(value) for name, value in stored.items() if name.endswith("zero_point") and value.dtype == np.uint8]
    assert points == [128]
    steps = [float(value) for name, value in stored.items() if name.endswith("scale") and value.ndim == 0 and "weight" not in name]
    assert steps[0] == pytest.approx(6 / 255), "from -3 to 3"
    assert off(got, want) < 0.002
    affine = constants(single(tmp_path, {"format": 8, "ranges": "minmax"})[0])
    assert [int(value) for name, value in affine.items() if name.endswith("zero_point") and value.dtype == np.uint8] == [64]
    channels = next(value for name, value in affine.items() if "weight" in name and name.endswith("scale"))
    np.testing.assert_allclose(channels, layer.weight.detach().abs().amax(1) / 127, rtol=1e-6)


@pytest.mark.parametrize(("both", "state"), [(False, False), (True, True)])
def test_a_wide_gru_computes_with_integer_products(both, state, tmp_path, monkeypatch):
    """Small here, and told to be wide: the outputs, the last state and a state to begin with are those of the float layer."""
    monkeypatch.setattr(onnx_recurrent, "GRU_FROM", 24)
    monkeypatch.setattr(prediction, "GRU_FROM", 24)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(20, 24, 2, batch_first=True, bidirectional=both)

        def forward(self, x, *start):
            out, last = self.gru(x, *(one.transpose(0, 1).contiguous() for one in start))
            return out, last.transpose(0, 1)

    chance = torch.Generator().manual_seed(0)
    x, start = torch.randn(12, 9, 20, generator=chance), torch.randn(12, 4, 24, generator=chance)
    model, inputs = seeded(Net), (x, start) if state else (x,)
    example = tuple(one[:1] for one in inputs)
    structure, runtime = coverage.analyse(model, example), plugins.load("runtimes", RUNTIME)
    base, path = tmp_path / "base.onnx", tmp_path / "model.onnx"
    runtime.export(Draft(model, structure, example), example, [], base)
    draft = Draft(model, structure, example, bits={"gru": 8})
    assert runtime.finish(draft, base, [inputs], path) == ()
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert (kinds.count("GRU"), kinds.count("Scan")) == (0, 4 if both else 2)
    with torch.no_grad():
        pairs = list(zip(runtime.open(path, 1).run(inputs), model(*inputs), strict=True))
    assert all(got.shape == want.shape and 1e-9 < off(got, want) < 1e-3 for got, want in pairs)
    found = runtime.profile(path, example, 1, runs=2)
    explained = kernels.explain(found, {"gru": 8}, {})
    assert (explained["integer"], [one for one in explained["findings"] if one["kind"] == "float"]) == (["gru"], [])
    assert not any("__step__" in row["layer"] for row in found)
    weights = sum(p.numel() for name, p in model.named_parameters() if "weight" in name)
    stored = [item for item in onnx.load(path).graph.initializer if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 2]
    assert sum(len(item.raw_data) for item in stored) == weights
    steps = sum(p.numel() for name, p in model.named_parameters() if "bias_ih" in name)
    assert sum(prediction.layer_bytes(draft).values()) == weights + 8 * steps + 4 * 2 * steps, (
        "weights, biases, a step per output and weight"
    )


# -- ranges found at every run -----------------------------------------------------------------------------------------------


LIVE = {"format": 8, "ranges": "dynamic"}


class Projections(nn.Module):
    """Two linear layers that read one tensor, one of them without a bias, and one that reads another."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(32, 24), nn.Linear(32, 24, bias=False), nn.Linear(24, 16)

    def forward(self, x):
        return self.out(torch.tanh(self.left(x) * self.right(x)))


@pytest.fixture(scope="module")
def projections(tmp_path_factory):
    """(model, inputs, structure, float file)."""
    model, base = seeded(Projections), tmp_path_factory.mktemp("projections") / "float.onnx"
    structure = coverage.analyse(model, sequences(1))
    plugins.load("runtimes", RUNTIME).export(Draft(model, structure, sequences(1)), sequences(1), [], base)
    return model, sequences, structure, base


def test_linear_layers_find_their_range_at_every_run_and_share_the_bytes_of_one_tensor(projections, tmp_path, capsys):
    path, notes, got, want = shipped(projections, LIVE, tmp_path)
    written = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert (written["DynamicQuantizeLinear"], written["MatMulInteger"]) == (2, 3), "left and right read one tensor"
    run = optimised(path, tmp_path)
    assert (run["DynamicQuantizeLinear"], run["MatMulIntegerToFloat"], run["DynamicQuantizeMatMul"]) == (1, 2, 1)
    assert not {"MatMul", "Gemm", "MatMulInteger", "Cast"} & set(run)
    assert run["Mul"] == 1, "the network's own"
    assert 1e-8 < off(got, want) < 0.002
    assert notes == ()
    steps = [value for name, value in constants(path).items() if name.endswith("_scale")]
    assert sorted(len(value) for value in steps) == [16, 24, 24], "a step per output of each weight, none of activations"

    from autoslim.cli.main import call as run_command

    assert run_command(["why", str(path), "--json"], False) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["meant"] == told["integer"] == ["left", "out", "right"]
    assert [one for one in told["findings"] if one["kind"] == "float"] == []


def test_a_range_found_at_every_run_against_its_definition(tmp_path):
    """DynamicQuantizeLinear of the ONNX standard and the product of integers, by hand, for a batch and for ten times its values."""
    path, _, _, _, (layer, x) = single(tmp_path, LIVE | {"bias": "plain"})
    assert optimised(path, tmp_path)["DynamicQuantizeMatMul"] == 1
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    steps = np.abs(weight).max(1) / np.float32(127)
    for rows in (x.numpy(), 10 * x.numpy(), x.numpy()[:1] + 5):
        low, high = min(rows.min(), 0), max(rows.max(), 0)
        step = np.float32((high - low) / 255)
        zero = np.rint(-low / step)
        integers = np.clip(np.rint(rows / step) + zero, 0, 255) - zero
        expected = integers @ np.rint(weight / steps[:, None]).T * (step * steps) + bias
        got = plugins.load("runtimes", RUNTIME).open(path, 1).run(torch.from_numpy(rows)).numpy()
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_range_found_at_every_run_fits_inputs_that_calibration_did_not_show(tmp_path):
    errors = {}
    for name in ("minmax", "dynamic"):
        path, _, got, want, (layer, x) = single(tmp_path, {"format": 8, "ranges": name})
        with torch.no_grad():
            errors[name] = off(got, want), off(plugins.load("runtimes", RUNTIME).open(path, 1).run(10 * x), layer(10 * x))
    assert errors["dynamic"][0] < 2 * errors["minmax"][0], "it costs nothing on inputs like those of calibration"
    assert errors["dynamic"][1] < 0.002 < 0.1 < errors["minmax"][1]


def test_a_range_found_at_every_run_needs_no_calibration_inputs(projections, tmp_path):
    model, inputs, structure, base = projections
    runtime, path = plugins.load("runtimes", RUNTIME), tmp_path / "model.onnx"
    assert runtime.finish(Draft(model, structure, inputs(1), bits=dict.fromkeys(("left", "right", "out"), LIVE)), base, [], path) == ()
    with torch.no_grad():
        assert off(runtime.open(path, 1).run(inputs(20)), model(inputs(20))) < 0.002


def test_a_convolution_keeps_ranges_from_calibration_and_says_so(nets, tmp_path):
    path, notes, got, want = shipped(nets["convolutions"], LIVE, tmp_path)
    run = optimised(path, tmp_path)
    assert (run["QLinearConv"], run["DynamicQuantizeMatMul"], run["ConvInteger"]) == (2, 1, 0)
    assert [note.split(":")[1].strip() for note in notes] == ["stem, body"]
    assert "found in calibration" in notes[0]
    assert off(got, want) < 0.002


def test_a_layer_whose_widest_range_spoils_it_computes_in_float(nets, tmp_path):
    insisted = shipped(nets["sink"], LIVE | {"fallback": "never"}, tmp_path)
    assert any("outputs differ by" in note for note in insisted[1])
    path, notes, got, want = shipped(nets["sink"], LIVE, tmp_path)
    fallen = plugins.load("runtimes", RUNTIME).fell(path)
    run = optimised(path, tmp_path)
    assert len(fallen) >= 1
    assert (run["MatMul"], run["DynamicQuantizeMatMul"]) == (len(fallen), 2 - len(fallen))
    assert all(any(layer in note and "computes in float" in note for note in notes) for layer in fallen)
    assert off(got, want) < off(insisted[2], want) / 10


def test_a_bias_takes_up_the_mean_error_of_a_range_found_at_every_run(tmp_path):
    def shift(bias):
        _, _, got, want, _ = single(tmp_path, LIVE | {"bias": bias})
        return float((got - want).mean(0).square().sum())

    assert shift("corrected") < shift("plain") / 10


@pytest.mark.parametrize("told", [{"format": "w4a8"}, {"format": "w8"}, {"zero": "symmetric"}, {"equalise": "always"}])
def test_what_has_no_kernel_with_a_range_found_at_every_run_is_refused(told):
    key, value = next(iter(told.items()))
    with pytest.raises(ValueError, match=f"got {key}='{value}' with ranges='dynamic', allowed with it: "):
        formats.parse(LIVE | told)


def test_the_file_remembers_what_was_asked(nets, tmp_path):
    path, *_ = shipped(nets["convolutions"], 8, tmp_path, ["stem"])
    assert plugins.load("runtimes", RUNTIME).bits(path) == {"stem": 8}


def test_a_layer_that_the_graph_does_not_show_is_named(nets, tmp_path):
    model, inputs, structure, base = nets["convolutions"]
    draft = replace(compress(model, Recipe(), [inputs(2)], structure=structure), bits={"elsewhere": 8})
    notes = plugins.load("runtimes", RUNTIME).finish(draft, base, [inputs(4)], tmp_path / "m.onnx")
    assert notes == ("bits: elsewhere stays in float, no node of the graph carries its weight",)


# -- values ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [*formats.NAMES, {"format": 8, "ranges": "mse"}, {"format": 8, "ranges": "dynamic"}, {"format": "w4", "rounding": "adaround"}]
)
def test_every_format_is_effective_once_and_survives_json(value):
    member = plugins.load("techniques", "bits")
    unit = type("Unit", (), {"name": "a"})()
    done = member.effective(unit, value)
    if value == 32:
        assert done is None
        return
    assert done == value
    assert member.effective(unit, done) == done
    assert json.loads(json.dumps(done)) == done


def test_defaults_that_are_spelled_out_are_the_short_form():
    assert formats.parse({"format": 8, "ranges": "measured", "equalise": "auto"}).value == 8
    with pytest.raises(ValueError, match="ranges='wide', allowed: ranges: measured, minmax"):
        formats.parse({"format": 8, "ranges": "wide"})


def test_a_space_offers_formats_that_the_runtime_has(nets):
    spec = {"techniques": {"bits": {"values": [32, 8, "w4", {"format": 8, "ranges": "mse"}], "layers": ["stem"]}}}
    structure = nets["convolutions"][2]
    space, notes = build(spec, structure, plugins.load("runtimes", RUNTIME).supports)
    assert space.domains[0].choices == (32, 8, "w4", "format=8 ranges=mse")
    assert notes == []
    assert space.rivals()["uniform-int8"] == {"bits:stem": 8}, "not the last of the formats"
    point = {"bits:stem": "format=8 ranges=mse"}
    assert space.decode(point).by("bits") == {"stem": {"format": 8, "ranges": "mse"}}
    _, notes = build({"techniques": {**spec["techniques"], "channels": {}}}, structure, {"bits": (32,)})
    assert "left out" in notes[0]


# -- ranges and rounding -----------------------------------------------------------------------------------------------------

NORMAL = np.random.default_rng(0).normal(size=20_000).astype(np.float32)


def test_steps_of_a_range_follow_the_formula():
    step, zero = ranges.scale_of(-1.0, 3.0)
    assert step == pytest.approx(4 / 255)
    assert zero == round(255 / 4)
    assert ranges.scale_of(2.0, 5.1)[1] == 0, "a range always holds 0"
    assert ranges.rounded(np.array([0.0], np.float32), -1.0, 3.0) == 0


def test_ranges_are_what_their_names_say():
    values = np.append(NORMAL, np.float32(60.0))
    low, high = float(values.min()), float(values.max())
    error = {
        name: np.square(ranges.rounded(values, *method(values, low, high)[0]) - values).mean() for name, method in ranges.METHODS.items()
    }
    assert ranges.minmax(values, low, high) == [(low, high)]
    assert ranges.percentile(values, low, high)[1][1] == pytest.approx(np.quantile(values, 0.999), rel=1e-3)
    assert error["mse"] <= error["minmax"]
    assert ranges.entropy(values, low, high)[0][1] < high, "one value in twenty thousand is not worth the others' steps"
    assert len(ranges.candidates("measured", values, low, high)) == 5


def test_the_mse_range_is_the_best_of_those_tried():
    values = np.concatenate([NORMAL, np.float32([25.0, -18.0])])
    low, high = float(values.min()), float(values.max())
    tried = [(low * a, high * a) for a in ranges.SHRINKS] + [(low, high * a) for a in ranges.SHRINKS]
    errors = {pair: float(np.square(ranges.rounded(values, *pair) - values).mean()) for pair in tried}
    found = ranges.mse(values, low, high)[0]
    assert errors[found] <= min(errors.values()) * 1.02, "by a histogram instead of all values"
    assert errors[found] < 0.97 * errors[low, high]


def naive_divergence(counts, first, last):
    """The steps of Migacz's slides, one bin after the other."""
    want = [float(count) for count in counts[first:last]]
    want[0] += float(sum(counts[:first]))
    want[-1] += float(sum(counts[last:]))
    size = min(256, last - first)
    starts = sorted({int(place) for place in np.linspace(0, last - first, size, endpoint=False)})
    got = [0.0] * len(want)
    for start, stop in zip(starts, [*starts[1:], last - first], strict=True):
        filled = [place for place in range(start, stop) if counts[first + place] > 0]
        for place in filled:
            got[place] = sum(float(count) for count in counts[first + start : first + stop]) / len(filled)
    p, q = np.array(want) / sum(want), np.array(got) / max(sum(got), 1e-12)
    return sum(a * np.log(a / max(b, 1e-6)) for a, b in zip(p, q, strict=True) if a > 0)


def test_entropy_is_the_divergence_of_the_slides():
    values = np.concatenate([NORMAL, np.float32([12.0])])
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, ranges.BINS, (low, high))
    zero = int(np.searchsorted(edges, 0.0))
    for share in (1.0, 0.6, 0.3):
        first, last = zero - int(np.ceil(zero * share)), zero + int(np.ceil((ranges.BINS - zero) * share))
        assert ranges.divergence(counts, first, last) == pytest.approx(naive_divergence(counts, first, last), rel=1e-9)


def correlated(n, inputs, seed=1):
    chance = np.random.default_rng(seed)
    return chance.normal(size=(n, 3)) @ chance.normal(size=(3, inputs)) + 0.1 * chance.normal(size=(n, inputs))


def naive_gptq(weight, steps, bits, gram):
    """One column after the other with the full inverse, as the optimal-brain-surgeon formula has it."""
    low, high = rounding.bounds(bits)
    left, found = weight.copy(), np.zeros(weight.shape)
    hessian = gram + rounding.DAMPING * np.diag(gram).mean() * np.eye(len(gram))
    order = list(np.argsort(-np.diag(gram), kind="stable"))
    for place, column in enumerate(order):
        rest = order[place:]
        inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
        found[:, column] = np.clip(np.rint(left[:, column] / steps[:, 0]), low, high)
        error = (left[:, column] - found[:, column] * steps[:, 0]) / inverse[0, 0]
        left[:, rest] -= np.outer(error, inverse[0])
    return found


def test_gptq_is_the_greedy_surgeon_and_beats_rounding():
    rows, weight = correlated(200, 24), np.random.default_rng(2).normal(size=(8, 24))
    steps = rounding.scales_of(weight, 4, 24)
    whole = rounding.gptq(weight, steps, 4, rows.T @ rows)
    assert (whole == naive_gptq(weight, steps, 4, rows.T @ rows)).all()
    plain = rounding.nearest(weight, steps, 4)
    assert rounding.output_error(weight, whole, steps, rows) < rounding.output_error(weight, plain, steps, rows) / 3


def test_adaround_moves_weights_by_one_at_most_and_beats_rounding():
    rows, weight = correlated(200, 24), np.random.default_rng(2).normal(size=(8, 24))
    steps = rounding.scales_of(weight, 4, 24)
    whole = rounding.adaround(weight, steps, 4, rows)
    assert np.abs(whole - weight / steps).max() <= 1 + 1e-6
    plain = rounding.nearest(weight, steps, 4)
    assert rounding.output_error(weight, whole, steps, rows) < rounding.output_error(weight, plain, steps, rows) / 2


def test_an_equaliser_changes_no_product():
    rows, weight = correlated(50, 24), np.random.default_rng(2).normal(size=(8, 24))
    scale = equalising.scales(np.abs(rows).max(0), np.abs(weight).max(0), 0.5)
    np.testing.assert_allclose((rows / scale) @ (weight * scale).T, rows @ weight.T, rtol=1e-4, atol=1e-5)
    ratio = np.abs(rows / scale).max(0) / np.abs(weight * scale).max(0)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3, err_msg="at strength 0.5 both sides are equally wide (equation 4)")


# -- why ---------------------------------------------------------------------------------------------------------------------

ROWS = [
    {"layer": "a", "op": "QLinearConv", "ms": 2.0},
    {"layer": "b", "op": "Conv", "ms": 3.0},
    {"layer": "b", "op": "DequantizeLinear", "ms": 0.5},
    {"layer": "c", "op": "Gemm", "ms": 1.0},
]


def test_why_names_float_kernels_conversions_missed_steps_and_slower_layers():
    found = kernels.explain(ROWS, {"a": 8, "b": 8, "c": "w4"}, {"a": (20, 16), "c": (32, 16)}, [{"layer": "a", "op": "Conv", "ms": 1.0}])
    assert (found["ms"], found["meant"], found["integer"]) == (6.5, ["a", "b"], ["a"])
    told = [(one["kind"], one["layer"], one["ms"]) for one in found["findings"]]
    assert told == [
        ("float", "b", 3.0),
        ("slower", "a", 1.0),
        ("width", "a", pytest.approx(2.0 * (1 - 20 / 32))),
        ("conversion", "b", 0.5),
    ]
    assert all(one["fix"] for one in found["findings"])
    assert kernels.explain(ROWS[:1], {"a": 8}, {"a": (16, 16)})["findings"] == []


def test_why_reads_a_file(nets, tmp_path, capsys):
    from autoslim.cli.main import call as run

    path, *_ = shipped(nets["words"], 8, tmp_path)
    assert run(["why", str(path), "--json"], False) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["meant"], found["integer"]) == (["gru", "lstm", "table"], ["lstm", "table"])
    assert [one["layer"] for one in found["findings"] if one["kind"] == "float"] == ["gru"]
    assert run(["why", str(path)], False) == 0
    assert "2 of 3 layers that were meant as integers run as integers" in capsys.readouterr().out
    assert run(["why", str(tmp_path / "none.onnx")], False) == 2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_recurrent_layer_that_runs_twice_is_widened_once(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_recurrent, "GRU_FROM", 24)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = kind(24, 24, batch_first=True)

        def forward(self, x):
            return self.cell(self.cell(x)[0])[0]

    model, x = seeded(Twice), torch.randn(6, 5, 24, generator=torch.Generator().manual_seed(0))
    structure, runtime = coverage.analyse(model, x[:1]), plugins.load("runtimes", RUNTIME)
    base, path = tmp_path / "base.onnx", tmp_path / "model.onnx"
    runtime.export(Draft(model, structure, x[:1]), x[:1], [], base)
    draft = Draft(model, structure, x[:1], bits={"cell": {"format": "w4a8", "per": "tensor"}})
    notes = runtime.finish(draft, base, [x], path)
    assert any("per: tensor has no effect" in note for note in notes)
    with torch.no_grad():
        assert off(runtime.open(path, 1).run(x), model(x)) < 0.2


class Steps(nn.Module):
    """A recurrent layer over inputs that go together, as those of a network do."""

    def __init__(self, kind, both):
        super().__init__()
        self.rnn = kind(32, 64, batch_first=True, bidirectional=both)
        with torch.no_grad():
            self.mix = nn.Parameter(torch.randn(32, 4) @ torch.randn(4, 32) / 4 + 0.1 * torch.eye(32), requires_grad=False)

    def forward(self, x):
        return self.rnn(x @ self.mix)[0]


@pytest.mark.parametrize(("kind", "both"), [(nn.GRU, False), (nn.LSTM, True)])
def test_four_bits_of_a_recurrent_layer_look_at_what_it_reads(kind, both, tmp_path):
    model = seeded(Steps, kind, both)
    x, fresh = (torch.randn(64, 10, 32, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    runtime, structure, errors = plugins.load("runtimes", RUNTIME), coverage.analyse(model, x[:1]), {}
    runtime.export(Draft(model, structure, x[:1]), x[:1], [], tmp_path / "float.onnx")
    for how in ("auto", "nearest"):
        draft = compress(model, Recipe.of([Step("bits", "rnn", {"format": "w4", "rounding": how})]), [x], structure=structure)
        runtime.finish(draft, tmp_path / "float.onnx", [x], tmp_path / f"{how}.onnx")
        with torch.no_grad():
            errors[how] = float((runtime.open(tmp_path / f"{how}.onnx", 1).run(fresh) - model(fresh)).square().mean())
    assert errors["auto"] < (0.9 if both else 0.75) * errors["nearest"]
    sizes = [(tmp_path / f"{how}.onnx").stat().st_size for how in errors]
    assert abs(sizes[0] - sizes[1]) < 100, "but for the note of what was asked"
