"""Weights that a graph computes from constants, computed once: an exporter cuts and joins large recurrent weights in the graph."""

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime

from autoslim.onnx_graph import Graph


def fold(graph: Graph, name: str) -> bool:
    """Whether ``name`` is a constant now. It stays computed where an input of the graph takes part, or a constant that other nodes read too,
    which would be stored twice."""
    if name in graph.constants:
        return True
    nodes = makers(graph, name)
    if nodes is None:
        return False
    own = {node.name for node in nodes}
    read = {one for node in nodes for one in node.input if one in graph.constants}
    shared = [one for one in read if large(graph, one) and any(node.name not in own for node in graph.readers[one])]
    if shared:
        return False
    value = computed(graph, nodes, read, name)
    graph.model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    maker = graph.made_by[name]
    maker.output[list(maker.output).index(name)] = ""
    for node in reversed(nodes):  # those that nothing reads any more
        if not any(output in graph.readers or output in graph.outputs for output in node.output if output):
            graph.model.graph.node.remove(node)
            graph.look()
    graph.look()
    return True


def drop_zeros(model: onnx.ModelProto) -> None:
    """Take sums with a zero without axes out of a graph: what is added to stands in the place of the sum."""
    graph = Graph(model)
    while (found := next(sums_with_nothing(graph), None)) is not None:
        node, other = found
        graph.redirect(graph.readers.get(node.output[0], []), node.output[0], other)
        model.graph.node.remove(node)
        graph.tidy()  # makes the nodes anew


def sums_with_nothing(graph: Graph) -> Iterator[tuple[onnx.NodeProto, str]]:
    """(node, what the zero is added to) of those that give no output of the graph."""
    for node in graph.model.graph.node:
        if node.op_type == "Add" and node.output[0] not in graph.outputs:
            for zero, other in zip(node.input, reversed(node.input), strict=True):
                if is_zero(graph, zero):
                    yield node, other


def is_zero(graph: Graph, name: str) -> bool:
    """Whether a tensor is a constant zero without axes."""
    made = graph.made_by.get(name)
    if name not in graph.constants and (made is None or made.op_type != "ConstantOfShape" or made.input[0] not in graph.constants):
        return False
    dims = graph.constants[name].dims if name in graph.constants else graph.array(made.input[0])
    return len(dims) == 0 and fold(graph, name) and not graph.array(name).any()


def settled(graph: Graph, name: str) -> bool:
    """Whether a tensor is a constant or computed from constants alone."""
    return name in graph.constants or makers(graph, name) is not None


def makers(graph: Graph, name: str) -> list[onnx.NodeProto] | None:
    """The nodes that compute a tensor, each after those it reads; None where they read an input of the graph."""
    found: dict[str, onnx.NodeProto] = {}

    def visit(tensor: str) -> bool:
        if not tensor or tensor in graph.constants:
            return True
        node = graph.made_by.get(tensor)
        if node is None or any(attribute.type == onnx.AttributeProto.GRAPH for attribute in node.attribute):
            return False
        if node.name in found:
            return True
        if not all(visit(one) for one in node.input):
            return False
        found[node.name] = node
        return True

    return list(found.values()) if visit(name) else None


def large(graph: Graph, name: str) -> bool:
    """Whether a constant is more than an index or a shape."""
    return int(np.prod(graph.constants[name].dims)) > 8


def computed(graph: Graph, nodes: list[onnx.NodeProto], constants: set[str], name: str) -> np.ndarray:
    """The value of ``name``, by ONNX Runtime."""
    outer = graph.model
    output = onnx.helper.make_empty_tensor_value_info(name)
    inner = onnx.helper.make_graph(nodes, "folded", [], [output], [graph.constants[one] for one in sorted(constants)])
    model = onnx.helper.make_model(inner, opset_imports=outer.opset_import, ir_version=outer.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([name], {})[0]
