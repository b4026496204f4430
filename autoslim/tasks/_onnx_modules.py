"""From an ONNX graph to a network of ordinary PyTorch layers, with the names that the weights have in the file."""

import operator
from collections import Counter
from collections.abc import Mapping
from types import ModuleType

import numpy as np
import onnx
import torch
from torch import Tensor, fx, nn

from autoslim import onnx_names
from autoslim.errors import UserError
from autoslim.tasks import _onnx_graph

#: operators that become layers with weights
NAMED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization", "InstanceNormalization")


class Reshape(nn.Module):
    """To a constant shape; 0 keeps the axis, as in ONNX."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(self.shape)])


def convert(graph: _onnx_graph.Graph, feed: Mapping[str, np.ndarray]) -> fx.GraphModule:
    """The network. Raises UserError naming every operator that onnx2torch cannot convert."""
    library = _library()
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    names = _name_layers(proto)
    proto = _onnx_graph.plain(proto, graph.inputs, feed)
    _refuse_unsupported(proto, graph, library)
    try:
        net = library.convert(proto, save_input_names=True)
    except Exception as error:  # an attribute that a converter does not know: each raises what it likes
        why = " ".join(str(error).split())[:200]
        raise UserError(f"--model: {str(graph.path)!r} cannot be converted by onnx2torch ({type(error).__name__}: {why})") from error
    _reshapes(net)
    _linears(net)
    _names(net, names)
    _outputs(net)
    _initializers(net)
    net.graph.lint()
    net.recompile()
    return net


def _library() -> ModuleType:
    """The package onnx2torch, loaded when it is needed; raises UserError if it is not installed."""
    try:
        import onnx2torch
    except ModuleNotFoundError as error:
        raise UserError(f"--model: onnx:... needs the package {error.name!r}; pip install 'autoslim[onnx-import]'") from None
    return onnx2torch


def _refuse_unsupported(proto: onnx.ModelProto, graph: _onnx_graph.Graph, library: ModuleType) -> None:
    from onnx2torch.node_converters import get_converter

    versions = {entry.domain: entry.version for entry in proto.opset_import}
    unknown = set()
    for node in proto.graph.node:
        try:
            get_converter(domain=node.domain, operation_type=node.op_type, version=versions[node.domain])
        except NotImplementedError:
            unknown.add(f"{node.domain}.{node.op_type}".lstrip("."))
    if unknown:
        raise UserError(
            f"--model: {str(graph.path)!r} has operators that onnx2torch cannot convert: {', '.join(sorted(unknown))} "
            f"(opset {_onnx_graph.opset(graph.proto).version}); export with opset {_onnx_graph.OPSET} or older, or write a task"
        )


def _name_layers(proto: onnx.ModelProto) -> dict[str, str]:
    """Name each node with weights after them, ``layer1.0.conv1.weight`` -> ``layer1.0.conv1``, or after the module that the
    exporter noted; returns {module of onnx2torch: that name}. A name for several nodes names none."""
    constants = {item.name for item in proto.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    stems = {}
    for index, node in enumerate(proto.graph.node):
        if node.op_type not in NAMED or not constants & set(node.input[1:]):
            continue
        near = [node, *(readers.get(node.output[0], []) if node.op_type == "MatMul" else [])]
        ends = [name for at in near for name in at.input if name in constants and len(readers[name]) == 1]
        stem = next((name.rpartition(".")[0] for name in ends if name.endswith((".weight", ".bias"))), onnx_names.layer(node))
        if stem:
            stems[index] = stem
    taken = Counter(stems.values())
    named = {}
    for index, stem in stems.items():
        if taken[stem] == 1:
            proto.graph.node[index].name = stem
            named[stem.replace(".", "/")] = stem
    return named


def _value(net: fx.GraphModule, node: object) -> Tensor | None:
    """The constant that a node of the traced graph stands for; None for anything else."""
    return operator.attrgetter(node.target)(net) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def _calls(net: fx.GraphModule, kind: str) -> list[fx.Node]:
    """Calls of the modules whose class has that name."""
    return [node for node in net.graph.nodes if node.op == "call_module" and type(net.get_submodule(node.target)).__name__ == kind]


def _reshapes(net: fx.GraphModule) -> None:
    """Reshape reads its shape from a tensor, which no exporter follows: give it the constant."""
    for node in _calls(net, "OnnxReshape"):
        shape = _value(net, node.args[1])
        if shape is not None:
            node.args = node.args[:1]
            net.add_submodule(node.target, Reshape(shape.tolist()))


def _linears(net: fx.GraphModule) -> None:
    """A product with a constant matrix (in, out), and the sum with a constant row (out,) after it, is a linear layer."""
    for node in _calls(net, "OnnxMatMul"):
        matrix = _value(net, node.args[1])
        if matrix is None or matrix.dim() != 2:
            continue
        after, row = _sum_after(net, node, matrix.shape[1])
        layer = nn.Linear(*matrix.shape, bias=row is not None)
        layer.weight = nn.Parameter(matrix.t().contiguous())
        if row is not None:
            layer.bias = nn.Parameter(row.clone())
            after.replace_all_uses_with(node)
            net.graph.erase_node(after)
        node.args = node.args[:1]
        net.add_submodule(node.target, layer)


def _sum_after(net: fx.GraphModule, node: fx.Node, width: int) -> tuple[fx.Node | None, Tensor | None]:
    """(the only reader of ``node``, the constant row (width,) that it adds); two None where it does something else."""
    sums = [call for call in _calls(net, "OnnxBinaryMathOperation") if net.get_submodule(call.target).math_op_function is torch.add]
    for call in sums:
        row = next((found for arg in call.args if (found := _value(net, arg)) is not None), None)
        if set(node.users) == {call} and node in call.args and row is not None and row.shape == (width,):
            return call, row
    return None, None


def _names(net: fx.GraphModule, names: Mapping[str, str]) -> None:
    """Move each named module to the place that its name says."""
    for node in net.graph.nodes:
        if node.op == "call_module" and node.target in names:
            net.add_submodule(names[node.target], net.get_submodule(node.target))
            node.target = names[node.target]
    net.delete_all_unused_submodules()


def _outputs(net: fx.GraphModule) -> None:
    """Several outputs are a tuple."""
    last = next(node for node in net.graph.nodes if node.op == "output")
    if isinstance(last.args[0], list | tuple):
        last.args = (tuple(last.args[0]),)


def _initializers(net: fx.GraphModule) -> None:
    """Constants that are still read: floating ones with an axis are parameters, so that they are counted; others go."""
    for node in [node for node in net.graph.nodes if node.op == "get_attr" and not node.users]:
        net.graph.erase_node(node)
    used = {node.target.rpartition(".")[2] for node in net.graph.nodes if node.op == "get_attr"}
    holder = getattr(net, "initializers", nn.Module())
    for name, value in list(holder.named_buffers()):
        delattr(holder, name)
        if name in used and value.is_floating_point() and value.dim():
            holder.register_parameter(name, nn.Parameter(value))
        elif name in used:
            holder.register_buffer(name, value)
