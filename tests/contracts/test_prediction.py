"""What is predicted of every technique is what is counted in the shipped file: parameters, multiply-accumulates, bytes of the weights."""

import re

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import noise
from onnx import numpy_helper
from torch import nn

from autoslim import coverage, engine, formats, packed, plugins, prediction
from autoslim.errors import Untreatable
from autoslim.recipe import Recipe, Step

RUNTIME = "onnxruntime_cpu"
#: networks whose drafts are written into the original's graph, and what needs the exporter and therefore time
NETS = ("residual", "mlp", "attention", "gru")
TRACED = ("student",)


def varied(made):
    """The same with values of its own in each bias and norm: the file keeps one copy of equal ones."""
    model, example = made
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            if parameter.dim() == 1:
                parameter += 0.1 * noise(*parameter.shape, seed=seed)
    return model, example


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """{network: (model, example, structure, runtime, untouched file)}."""
    found = {}
    for name in NETS:
        model, example = varied(networks.ZOO[name]())
        runtime, path = plugins.load("runtimes", RUNTIME), tmp_path_factory.mktemp(name) / "untouched.onnx"
        structure = coverage.analyse(model, example)
        runtime.export(engine.Draft(model, structure, example), example, [], path)
        found[name] = model, example, structure, runtime, path
    return found


def shipped(originals, net, steps, folder):
    model, example, structure, runtime, untouched = originals[net]
    samples = [noise(8, *example.shape[1:], seed=seed) for seed in (1, 2)]
    draft = engine.compress(model, Recipe.of(steps), samples, structure=structure)
    base, path = folder / "base.onnx", folder / "model.onnx"
    runtime.export(draft, example, samples, base, original=(untouched, model))
    runtime.finish(draft, base, samples, path)
    return draft, onnx.load(str(path))


def without_numbers(proto):
    """The same without what is no weight: shapes, and numbers that the graph multiplies by, such as the root of the heads' width."""
    read = {name for node in proto.graph.node if node.op_type in ("Mul", "Div") for name in node.input}
    floats = [item for item in proto.graph.initializer if item.data_type != onnx.TensorProto.INT64]
    kept = [item for item in floats if not (item.name in read and list(item.dims) == [1])]
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    bare.graph.initializer.extend(kept)
    return bare


def weights(proto):
    """{name: array} of the initialisers that are weights or biases: all but numbers, shapes and what quantisation adds."""
    arrays = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    added = {name for node in proto.graph.node if "Quantize" in node.op_type or "Dequantize" in node.op_type for name in node.input[1:]}
    return {
        name: array
        for name, array in arrays.items()
        if array.size > 1 and array.dtype != np.int64 and name not in added and not name.endswith("_step")
    }


def shapes_of(proto, example):
    """{tensor: its shape} as ONNX Runtime computes them from the example."""
    shown = onnx.ModelProto()
    shown.CopyFrom(proto)
    named = {value.name for value in shown.graph.output}
    names = [name for node in shown.graph.node for name in node.output if name and name not in named]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, 3
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: example.numpy()})
    told = {value.name: np.shape(array) for value, array in zip(session.get_outputs(), found, strict=True)}
    return told | {session.get_inputs()[0].name: tuple(example.shape)} | {item.name: tuple(item.dims) for item in proto.graph.initializer}


def macs(proto, example):
    """Multiply-accumulates of one sample, by the shapes in the graph: a formula for each kind of node, batch of one."""
    shapes, total = shapes_of(proto, example), 0
    for node in proto.graph.node:
        first, second, *more = [shapes.get(name, ()) for name in (*node.input, "", "")]
        if node.op_type == "Conv":  # each output reads a kernel
            total += np.prod(shapes[node.output[0]]) * np.prod(second[1:])
        elif node.op_type in ("Gemm", "MatMul"):  # each output is the product of a row and a column, of weights or of two activations
            total += np.prod(shapes[node.output[0]]) * first[-1]
        elif node.op_type in ("GRU", "LSTM"):  # (steps, batch, inputs): each step multiplies by both matrices of both directions
            total += first[0] * (np.prod(second) + np.prod(more[0]))
    return int(total)


def values_of(name):
    """The strongest value of a technique, and those whose storage differs."""
    member = plugins.load("techniques", name)
    more = {
        "bits": [16],
        "sparsity": ["2:4", {"threshold": 0.05}],
        "codebook": [{"bits": 3, "levels": "pow2"}, {"bits": 2, "per": "channel"}],
    }
    first = {"bits": 8, "gradual": {"share": 0.9, "steps": 3}, "qat": {"format": 8, "steps": 3}}.get(name, member.values[-1])
    return [first, *more.get(name, [])]


CASES = [
    pytest.param(name, value, marks=[pytest.mark.slow] if name in TRACED else [], id=f"{name} {value}")
    for name in plugins.names("techniques")
    for value in values_of(name)
]


def steps_of(originals, net, technique, value):
    """One value on all units that it changes; of blocks one."""
    member, structure = plugins.load("techniques", technique), originals[net][2]
    steps = [Step(technique, unit.name, value) for unit in member.units(structure).values() if member.effective(unit, value) is not None]
    return steps[:1] if technique == "depth" else steps


@pytest.mark.parametrize(("technique", "value"), CASES)
@pytest.mark.parametrize("net", NETS)
def test_what_is_predicted_is_what_is_counted(originals, net, technique, value, tmp_path):
    steps = steps_of(originals, net, technique, value)
    if not steps:
        pytest.skip(f"{technique} has no unit in {net}")
    try:
        draft, proto = shipped(originals, net, steps, tmp_path)
    except Untreatable as error:
        if not str(error).startswith(f"{technique}: "):
            raise  # what cannot be exported is no reason of the technique
        pytest.skip(str(error))
    told, arrays = prediction.predict(draft), weights(proto)
    assert told.macs == macs(proto, originals[net][1])
    assert told.params == sum(array.size for array in arrays.values())
    assert told.payload_bytes == (stored(proto) if draft.bits else packed.pack(without_numbers(proto), entropy=False).payload)


@pytest.mark.parametrize("technique", plugins.names("techniques"))
def test_each_technique_has_a_network_that_it_treats(originals, technique):
    """Without one, the test above would skip it in silence."""

    def is_treated(net):
        model, example, structure, *_ = originals[net]
        steps = steps_of(originals, net, technique, values_of(technique)[0])
        try:
            return bool(steps) and engine.compress(model, Recipe.of(steps), [noise(8, *example.shape[1:])], structure=structure) is not None
        except Untreatable:
            return False

    assert any(map(is_treated, NETS))


LIVE = {"format": 8, "ranges": "dynamic"}


@pytest.mark.parametrize("value", [*(value for value in formats.NAMES if value != formats.FLOAT), LIVE], ids=str)
@pytest.mark.parametrize("net", NETS)
def test_bytes_of_every_format_are_what_is_predicted(originals, net, value, tmp_path):
    units = plugins.load("techniques", "bits").units(originals[net][2])
    some = dict(list(units.items())[1:])  # the first layer stays in float
    draft, proto = shipped(originals, net, [Step("bits", unit, value) for unit in some], tmp_path)
    assert len(draft.bits) == len(some)
    assert prediction.predict(draft).payload_bytes == stored(proto)


@pytest.mark.parametrize("value", [LIVE, LIVE | {"bias": "plain"}], ids=str)
def test_bytes_of_a_linear_layer_that_runs_twice_with_a_range_of_its_own_each_time_are_what_is_predicted(value, tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 9)

        def forward(self, x):
            return self.head(torch.tanh(self.body(torch.tanh(self.body(x)))))

    torch.manual_seed(0)
    model, x, runtime = Twice().eval(), noise(8, 16), plugins.load("runtimes", RUNTIME)
    structure = coverage.analyse(model, x[:1])
    draft = engine.Draft(model, structure, x[:1], bits=dict.fromkeys(["body", "head"], value))
    runtime.export(engine.Draft(model, structure, x[:1]), x[:1], [], tmp_path / "base.onnx")
    assert runtime.finish(draft, tmp_path / "base.onnx", [x], tmp_path / "model.onnx") == ()
    proto = onnx.load(str(tmp_path / "model.onnx"))
    assert [node.op_type for node in proto.graph.node].count("DynamicQuantizeLinear") == 3
    assert prediction.predict(draft).payload_bytes == stored(proto)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_bytes_of_tables_and_recurrent_layers_are_what_is_predicted(kind, tmp_path):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.cell = nn.Embedding(50, 64), kind(64, 40, batch_first=True, bidirectional=True)
            self.head = nn.Linear(80, 9)

        def forward(self, tokens):
            return self.head(self.cell(self.table(tokens))[0].mean(1))

    torch.manual_seed(0)
    model, tokens = Words().eval(), torch.randint(50, (8, 6), generator=torch.Generator().manual_seed(0))
    structure, runtime = coverage.analyse(model, tokens[:1]), plugins.load("runtimes", RUNTIME)
    units = plugins.load("techniques", "bits").units(structure)
    base, path = tmp_path / "base.onnx", tmp_path / "model.onnx"
    runtime.export(engine.Draft(model, structure, tokens[:1]), tokens[:1], [], base)
    for value in formats.NAMES:
        if value != formats.FLOAT:
            draft = engine.Draft(model, structure, tokens[:1], bits=dict.fromkeys(units, value))
            runtime.finish(draft, base, [tokens], path)
            told = prediction.predict(draft).payload_bytes
            assert told == stored(onnx.load(str(path))), value
            assert sum(prediction.layer_bytes(draft).values()) == told


@pytest.mark.parametrize("value", [8, "w4a8"])
def test_bytes_of_layers_that_calibration_finds_unfit_for_integers_are_what_is_predicted(value, tmp_path):
    class Sink(nn.Module):
        """One huge token, normalised away behind the layer that reads it."""

        def __init__(self):
            super().__init__()
            self.up, self.down, self.norm = nn.Linear(32, 64), nn.Linear(64, 32), nn.LayerNorm(32)
            with torch.no_grad():
                self.up.weight[0] = 0.0
                self.up.weight[0, 0] = 60.0
                self.up.bias[0] = -4.0
                nn.init.normal_(self.norm.weight)
                nn.init.normal_(self.norm.bias)

        def forward(self, x):
            return self.norm(x + self.down(nn.functional.gelu(self.up(x))))

    torch.manual_seed(0)
    model, x = Sink().eval(), noise(8, 16, 32)
    x[:, :, 0], x[:, 0, 0] = -1.0, 6.0
    structure, runtime = coverage.analyse(model, x[:1]), plugins.load("runtimes", RUNTIME)
    draft = engine.Draft(model, structure, x[:1], bits=dict.fromkeys(["up", "down"], {"format": value, "equalise": "never"}))
    runtime.export(engine.Draft(model, structure, x[:1]), x[:1], [], tmp_path / "base.onnx")
    runtime.finish(draft, tmp_path / "base.onnx", [x], tmp_path / "model.onnx")
    assert runtime.fell(tmp_path / "model.onnx"), "the network was made for that"
    assert prediction.predict(draft).payload_bytes == stored(onnx.load(str(tmp_path / "model.onnx")))


def stored(proto):
    """Bytes of a file's weights, their steps and the larger biases as they lie in it: all but shapes, zero points, and what becomes of
    activations and biases as integers."""
    total = 0
    for item in without_numbers(proto).graph.initializer:
        added = item.name.endswith(("zero_point", "bias_quantized_scale")) or item.data_type == onnx.TensorProto.INT64
        if not added and item.dims and (len(item.raw_data) >= 32 or not re.search(r"bias(_quantized|_row)?$", item.name)):
            total += len(item.raw_data)
    return total


def test_an_untouched_network_needs_four_bytes_a_parameter(originals):
    for net in NETS:
        model, example, structure, _, path = originals[net]
        told = prediction.predict(engine.Draft(model, structure, example))
        small = 4 * 4  # the head's bias stays in the graph
        assert told.payload_bytes == 4 * told.params - small == packed.pack(without_numbers(onnx.load(str(path))), entropy=False).payload
