"""Integer recurrent layers: ONNX Runtime's DynamicQuantizeLSTM, whose inputs become bytes at every step, and wide GRUs (onnx_gru.py)."""

import numpy as np
import onnx

from autoslim import onnx_gru
from autoslim.formats import GRU_FROM
from autoslim.onnx_graph import Graph, attribute
from autoslim.onnx_qdq import integers
from autoslim.rounding import nearest, scales_of

#: why other kinds compute in float
FLOAT = (
    f"ONNX Runtime has integer kernels for LSTM alone, and a GRU of integer products is faster only from {GRU_FROM} hidden units on; its weights are "
    "stored narrow and it computes in float"
)


def read_by(graph: Graph, node: onnx.NodeProto) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The tensors whose last axis W and R multiply: the layer's inputs; and the state it begins with and its own outputs, which lag behind what R
    reads by one step. None for R where outputs are not kept, or both directions lie in them."""
    one_way = graph.constants[node.input[2]].dims[0] == 1
    begun = node.input[5] if len(node.input) > 5 and node.input[5] not in graph.constants else ""
    return (node.input[0],), tuple(name for name in (begun, node.output[0]) if name) if one_way and node.output[0] else ()


def dynamic(graph: Graph, node: onnx.NodeProto, bits: int) -> bool:
    """Put a DynamicQuantizeLSTM in the place of an LSTM, or integer products in that of a wide GRU, signed weights with a step per gate
    output; False if it is another kind."""
    if node.op_type == "GRU":
        return attribute(node, "hidden_size", 0) >= GRU_FROM and onnx_gru.dynamic(graph, node, bits)
    if node.op_type != "LSTM" or attribute(node, "layout", 0) or attribute(node, "clip", 0.0):
        return False
    inputs = [*node.input, *[""] * (8 - len(node.input))]
    extra = []
    for place in (1, 2):
        extra += gates(graph, node, inputs, place, bits)
    told = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute if one.name != "layout"}
    graph.node("DynamicQuantizeLSTM", [*inputs, *extra], list(node.output), node.name, node, domain="com.microsoft", **told)
    graph.model.graph.node.remove(node)
    graph.need_domain("com.microsoft", 1)
    return True


def gates(graph: Graph, node: onnx.NodeProto, inputs: list[str], place: int, bits: int) -> list[str]:
    """Quantise W or R, (directions, 4 hidden, inputs), into ``inputs[place]`` as the kernel wants it, transposed; returns the names
    of its steps and zero points."""
    name = inputs[place]
    value = graph.array(name)
    directions, outputs, width = value.shape
    flat = value.reshape(-1, width)
    steps = scales_of(flat, bits, width)
    whole = nearest(flat, steps, bits).reshape(directions, outputs, width).transpose(0, 2, 1)
    inputs[place] = integers(graph, name, whole, bits, node)
    scale = graph.constant(f"{name}_scale", steps.astype(np.float32).reshape(directions, outputs))
    zero = graph.constant(f"{name}_zero_point", np.zeros((directions, outputs), np.int8))
    return [scale, zero]
