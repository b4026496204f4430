"""An ONNX file as the short cut needs it: its inputs, and its graph in the words that onnx2torch knows."""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
import onnx.version_converter
import onnxruntime
import torch
from onnx import numpy_helper

from autoslim.errors import UserError

KINDS = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.BOOL: torch.bool,
}
#: the newest opset that onnx2torch knows as a whole
OPSET = 17
#: operators that compute shapes: PyTorch's exporter cannot follow them once converted
SHAPES = {"Shape", "Size", "Range", "ConstantOfShape"}
#: Gelu came with opset 20; its two definitions there, in older words
GELU = {
    "none": "r = Constant<value_float = 1.4142135>() s = Div(x, r) e = Erf(s)",
    "tanh": """k = Constant<value_float = 0.044715>() r = Constant<value_float = 0.7978845>()
               xx = Mul(x, x) xxx = Mul(xx, x) c = Mul(k, xxx) i = Add(x, c) s = Mul(r, i) e = Tanh(s)""",
}


@dataclass(frozen=True)
class Port:
    """One input. ``shape`` has None for free axes, ``word`` is its name in Python, ``table`` the rows of the table that it
    looks up (0: none)."""

    name: str
    word: str
    shape: tuple[int | None, ...]
    kind: torch.dtype
    table: int = 0


@dataclass(frozen=True)
class Graph:
    """``batch`` is the only batch size that the network takes once it is converted; None where it is free."""

    path: Path
    proto: onnx.ModelProto
    inputs: tuple[Port, ...]
    batch: int | None


def read(name: str) -> Graph:
    """The file's graph. Raises UserError for no ONNX file, and for inputs that are no batches of the types in KINDS."""
    path = Path(name)
    if not path.is_file():
        raise UserError(f"--model: no file {name!r}")
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(str(path))
    except Exception as error:  # protobuf's and onnx's exceptions share no base class
        why = " ".join(str(error).split())[:200]
        raise UserError(f"--model: {name!r} is no valid ONNX file ({type(error).__name__}: {why})") from error
    constants = {item.name for item in proto.graph.initializer}
    inputs = tuple(_port(value, proto.graph, name) for value in proto.graph.input if value.name not in constants)
    if not inputs:
        raise UserError(f"--model: {name!r} has no input")
    sizes = {port.shape[0] for port in inputs} - {None}
    if any(node.op_type in SHAPES for node in proto.graph.node):
        sizes = sizes or {1}
    return Graph(path, proto, inputs, max(sizes, default=None))


def _port(value: onnx.ValueInfoProto, graph: onnx.GraphProto, file: str) -> Port:
    told = value.type.tensor_type
    shape = tuple(axis.dim_value or None for axis in told.shape.dim)
    if told.elem_type not in KINDS or not shape:
        kind = onnx.TensorProto.DataType.Name(told.elem_type)
        allowed = ", ".join(onnx.TensorProto.DataType.Name(known) for known in KINDS)
        raise UserError(f"--model: the input {value.name!r} of {file!r} is {kind} of shape {shape}, allowed: batches of {allowed}")
    word = re.sub(r"\W", "_", value.name)
    return Port(value.name, word if word.isidentifier() else f"input_{word}", shape, KINDS[told.elem_type], _table(value.name, graph))


def _table(name: str, graph: onnx.GraphProto) -> int:
    """Rows of the constant table that the input looks up."""
    rows = {item.name: item.dims[0] for item in graph.initializer if item.dims}
    found = [rows[node.input[0]] for node in graph.node if node.op_type == "Gather" and node.input[1] == name and node.input[0] in rows]
    return min(found, default=0)


def plain(proto: onnx.ModelProto, inputs: tuple[Port, ...], feed: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The graph for onnx2torch: inputs with names of Python, an opset that it knows, no functions. A graph that computes
    shapes is folded for the shapes of ``feed``. ``proto`` is changed."""
    if any(node.op_type in SHAPES for node in proto.graph.node):
        proto = _folded(proto, feed)
    _rename(proto, {port.name: port.word for port in inputs})
    _spell_gelu(proto)
    _drop_allowzero(proto)
    proto = onnx.inliner.inline_local_functions(proto)
    try:
        return onnx.version_converter.convert_version(proto, OPSET) if opset(proto).version > OPSET else proto
    except RuntimeError:  # an operator without an older form: it will be named when it is looked up
        return proto


def opset(proto: onnx.ModelProto) -> onnx.OperatorSetIdProto:
    return next(entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))


def _folded(proto: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The graph for exactly the shapes of ``feed``, what is constant then computed by ONNX Runtime."""
    for value in proto.graph.input:
        if value.name in feed:
            for axis, size in zip(value.type.tensor_type.shape.dim, feed[value.name].shape, strict=True):
                axis.dim_value = size
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        fusions = ["MatMulAddFusion"]  # would flatten sequences to constant shapes around each linear layer
        onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=fusions)
        return onnx.load(str(path))


def _rename(proto: onnx.ModelProto, words: Mapping[str, str]) -> None:
    """Give the inputs their names in Python. Raises UserError if two would be the same."""
    if len(set(words.values())) < len(words):
        raise UserError(f"--model: the inputs {', '.join(words)} are the same when they are spelt as names of Python")
    for value in proto.graph.input:
        value.name = words.get(value.name, value.name)
    for node in proto.graph.node:
        node.input[:] = [words.get(name, name) for name in node.input]


def _spell_gelu(proto: onnx.ModelProto) -> None:
    """Turn Gelu into calls of a function of the model's own, in operators of opset 17."""
    used = set()
    for node in proto.graph.node:
        if node.op_type == "Gelu" and node.domain in ("", "ai.onnx"):
            form = next((attribute.s.decode() for attribute in node.attribute), "none")
            node.op_type, node.domain = f"Gelu_{form}", "autoslim"
            del node.attribute[:]
            used.add(form)
    for form in used:
        head = f'<opset_import: ["" : {opset(proto).version}], domain: "autoslim"> Gelu_{form} (x) => (y)'
        tail = "one = Constant<value_float = 1.0>() h = Constant<value_float = 0.5>() f = Add(e, one) g = Mul(x, f) y = Mul(g, h)"
        proto.functions.append(onnx.parser.parse_function(f"{head} {{ {GELU[form]} {tail} }}"))
    if used:
        proto.opset_import.add(domain="autoslim", version=1)


def _drop_allowzero(proto: onnx.ModelProto) -> None:
    """Reshape's attribute allowzero says nothing where the shape is a constant without a zero."""
    constants = {item.name: item for item in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Reshape" and node.input[1] in constants and numpy_helper.to_array(constants[node.input[1]]).all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
