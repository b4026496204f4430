"""Write a compressed model into the graph that was exported for the original, instead of tracing the model again.

Tracing takes seconds, and most recipes only change what the graph's constants hold: fewer channels are smaller weights, a removed
block is a bypass, a factorised layer a chain of nodes in the place of one. The result is believed only if it computes what
the compressed model computes; otherwise the caller exports in the ordinary way.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from autoslim.blocks import Skip
from autoslim.layers import CONVOLUTIONS
from autoslim.onnx_names import SCOPES, scopes

PRODUCTS = ("Conv", "Gemm", "MatMul")
Place = tuple[str, bool]


class Template:
    """The graph of an original model and where each of its weights lies in it.

    ``proto``: the original's graph, never changed; ``places``: {parameter or buffer: [(constant, whether transposed)]}.
    """

    def __init__(self, proto: onnx.ModelProto, model: nn.Module) -> None:
        """``model`` is what was traced for ``proto``, its batch norms folded."""
        self.proto = proto
        state = model.state_dict()
        self._digests = {name: digest(value) for name, value in state.items()}
        self.places = find_places(proto, state)
        self._layers = {name for name, module in model.named_modules() if isinstance(getattr(module, "weight", None), Tensor)}

    def write(self, model: nn.Module) -> onnx.ModelProto | None:
        """The graph of ``model``, a compressed form of the original with its batch norms folded; None where this cannot say it."""
        proto = onnx.ModelProto()
        proto.CopyFrom(self.proto)
        modules = dict(model.named_modules(remove_duplicate=False))
        skipped = [name for name, module in modules.items() if isinstance(module, Skip)]
        chains = {name: module for name, module in modules.items() if isinstance(module, nn.Sequential) and name in self._layers}
        state = model.state_dict()
        if not all(bypass(proto.graph, name) for name in skipped) or not all(
            self._chain(proto.graph, name, chain, state) for name, chain in chains.items()
        ):
            return None
        prune(proto.graph)
        if not self._fill(proto.graph, state):
            return None
        self._regroup(proto.graph, modules)
        return proto

    def _fill(self, graph: onnx.GraphProto, state: Mapping[str, Tensor]) -> bool:
        """Put the model's weights into the graph's constants; False where a changed one has no place of its own."""
        constants = {item.name: item for item in graph.initializer}
        changed = {name for name, value in state.items() if not is_counter(name) and self._digests.get(name) != digest(value)}
        merged = {self._digests[name] for name in state.keys() & self._digests.keys() - changed - self.places.keys()}
        if any(name not in self.places or self._digests[name] in merged for name in changed):
            return False  # not in the graph as it is, or one constant serves this weight and another that was equal to it
        for name in changed:
            for constant, transposed in self.places[name]:
                if constant in constants:
                    constants[constant].CopyFrom(initializer(constant, state[name].t() if transposed else state[name]))
        return True

    def _regroup(self, graph: onnx.GraphProto, modules: Mapping[str, nn.Module]) -> None:
        """Convolutions have as many groups as their modules say: a depthwise one loses groups with its channels."""
        owners = {constant: name.rpartition(".")[0] for name, found in self.places.items() for constant, _ in found}
        for node in graph.node:
            module = modules.get(owners.get(node.input[1])) if node.op_type == "Conv" else None
            if isinstance(module, CONVOLUTIONS):
                set_attribute(node, "group", module.groups)

    def _chain(self, graph: onnx.GraphProto, name: str, chain: nn.Sequential, state: dict[str, Tensor]) -> bool:
        """Replace the node of layer ``name`` by nodes for the layers of ``chain``; takes what they hold out of ``state``."""
        constants = dict(self.places.get(f"{name}.weight", ()))
        found = [
            (index, node)
            for index, node in enumerate(graph.node)
            if node.op_type in PRODUCTS and any(read in constants for read in node.input)
        ]
        if len(found) != 1 or any(isinstance(getattr(part, "padding", 0), str) for part in chain):
            return False
        index, node = found[0]
        made = [link(graph, node, f"{name}.{position}", part, position, len(chain)) for position, part in enumerate(chain)]
        graph.node.remove(node)
        for offset, one in enumerate(made):
            graph.node.insert(index + offset, one)
        for key in [key for key in state if key.startswith(f"{name}.")]:
            del state[key]
        if node.op_type == "MatMul" and chain[-1].bias is not None:  # the bias is added by a node of its own, which stays
            state[f"{name}.bias"] = chain[-1].bias
        return True


def find_places(proto: onnx.ModelProto, state: Mapping[str, Tensor]) -> dict[str, list[Place]]:
    """Where each tensor of a model lies among a graph's constants: by name, else by content, as it is or transposed."""
    upright = unique((digest(value), name) for name, value in state.items() if value.dim() > 1)
    turned = unique((digest(value.t()), name) for name, value in state.items() if value.dim() == 2)
    found: dict[str, list[Place]] = {}
    for item in proto.graph.initializer:
        if item.name in state:
            found.setdefault(item.name, []).append((item.name, False))
        elif len(item.dims) > 1:
            mark = digest(torch.from_numpy(numpy_helper.to_array(item).copy()))
            name = turned.get(mark) or upright.get(mark)
            if name is not None:
                found.setdefault(name, []).append((item.name, mark in turned))
    return found


def unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The pairs as a dict, without keys that come twice."""
    found: dict[str, str] = {}
    twice: set[str] = set()
    for key, value in pairs:
        if key in found:
            twice.add(key)
        found[key] = value
    return {key: value for key, value in found.items() if key not in twice}


def is_counter(name: str) -> bool:
    """Whether a buffer is what a batch norm counts while it learns, on which no output depends."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def digest(value: Tensor) -> str:
    """A name for shape, type and content."""
    array = value.detach().cpu().contiguous().numpy()
    found = hashlib.blake2b(f"{array.shape} {array.dtype}".encode(), digest_size=16)
    found.update(array.tobytes())
    return found.hexdigest()


def bypass(graph: onnx.GraphProto, name: str) -> bool:
    """Lead what flows into block ``name`` around it; False where the block has not one way in and one way out."""
    inside = [node for node in graph.node if within(node, name)]
    made = {output for node in inside for output in node.output}
    constants = {item.name for item in graph.initializer}
    ways_in = {read for node in inside for read in node.input if read and read not in made and read not in constants}
    outer = [node for node in graph.node if node not in inside]
    ways_out = {read for node in outer for read in node.input if read in made}
    if len(ways_in) != 1 or len(ways_out) != 1 or any(output.name in made for output in graph.output):
        return False
    (source,), (target,) = ways_in, ways_out
    for node in outer:
        for position, read in enumerate(node.input):
            if read == target:
                node.input[position] = source
    return True


def within(node: onnx.NodeProto, name: str) -> bool:
    return any(scope == name or scope.startswith(name + ".") for scope in scopes(node))


def link(graph: onnx.GraphProto, node: onnx.NodeProto, name: str, part: nn.Module, position: int, length: int) -> onnx.NodeProto:
    """One layer of a chain as a node that reads what the one before it gave; the first and the last take the old node's ends."""
    stem, last = name.rpartition(".")[0], position == length - 1
    source = node.input[0] if position == 0 else f"{stem}.{position - 1}.output"
    target = node.output[0] if last else f"{name}.output"  # named by the layer: the exporter counts node_conv2d_1, _2, ...
    weight = part.weight.t() if node.op_type == "MatMul" else part.weight
    inputs = [source, constant(graph, f"{name}.weight", weight)]
    if part.bias is not None and node.op_type != "MatMul":
        inputs.append(constant(graph, f"{name}.bias", part.bias))
    made = onnx.helper.make_node(node.op_type, inputs, [target], name=f"node_{name}", **settings(node, part))
    made.metadata_props.add(key=SCOPES, value=repr([*scopes(node), name, ""]))
    return made


def settings(node: onnx.NodeProto, part: nn.Module) -> dict[str, Any]:
    """Attributes of a node that computes ``part``."""
    if node.op_type == "Gemm":
        return {"transB": 1}
    if node.op_type == "MatMul":
        return {}
    padding = list(part.padding)
    return {
        "kernel_shape": list(part.kernel_size),
        "strides": list(part.stride),
        "dilations": list(part.dilation),
        "pads": padding + padding,
        "group": part.groups,
    }


def constant(graph: onnx.GraphProto, name: str, value: Tensor) -> str:
    graph.initializer.append(initializer(name, value))
    return name


def initializer(name: str, value: Tensor) -> onnx.TensorProto:
    return numpy_helper.from_array(value.detach().contiguous().numpy(), name)


def set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    """Give a node an integer attribute, in the place of one that it has."""
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.i = value
            return
    node.attribute.append(onnx.helper.make_attribute(name, value))


def prune(graph: onnx.GraphProto) -> None:
    """Drop nodes and constants that no output needs, and shapes noted for the original."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if any(output in needed for output in node.output):
            needed.update(name for name in node.input if name)
            kept.append(node)
    used = [item for item in graph.initializer if item.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(used)
