"""Integer GRU: the products of a GRU with ONNX Runtime's DynamicQuantizeMatMul, step by step in a Scan, as it has no kernel for the whole.

h' = (1 - z) n + z h, with r and z from both products and n = tanh(W x + b + r (R h + c)) (Cho et al. 2014, https://arxiv.org/abs/1406.1078, eq.
5 to 8, the reset after the product as PyTorch has it). The products with the inputs of all steps are one product before the Scan.
"""

from dataclasses import dataclass

import numpy as np
import onnx

from autoslim.onnx_folding import fold
from autoslim.onnx_graph import Graph, attribute
from autoslim.onnx_names import INNER
from autoslim.onnx_qdq import integers
from autoslim.rounding import nearest, scales_of

ACTIVATIONS = [b"Sigmoid", b"Tanh"]


@dataclass(frozen=True)
class Direction:
    """One direction of a layer: its number and prefix, whether it runs backwards, and names of the graph's constants."""

    number: int
    name: str
    backwards: bool
    reads: tuple[str, ...]
    repeats: tuple[str, ...]


def dynamic(graph: Graph, node: onnx.NodeProto, bits: int) -> bool:
    """Put integer products in the place of a GRU; False, and nothing changed, where it is not PyTorch's."""
    if not plain(graph, node):
        return False
    hidden, sides = attribute(node, "hidden_size", 0), directions(graph, node, bits)
    sizes = graph.constant(f"{node.name}_gates", np.array([2 * hidden, hidden], np.int64))
    starts = initial(graph, node, hidden, len(sides))
    found = [run(graph, node, side, start, sizes, hidden) for side, start in zip(sides, starts, strict=True)]
    for place, axis in ((0, 1), (1, 0)):
        if len(node.output) > place and node.output[place]:
            gather(graph, node, [one[place] for one in found], axis, node.output[place])
    graph.model.graph.node.remove(node)
    graph.need_domain("com.microsoft", 1)
    return True


def plain(graph: Graph, node: onnx.NodeProto) -> bool:
    """Whether a node is a GRU with the usual functions, sequences of one length, and constant weights."""
    told = attribute(node, "activations", None)
    count = 2 if attribute(node, "direction", b"forward") == b"bidirectional" else 1
    usual = (told is None or list(told) == ACTIVATIONS * count) and not attribute(node, "layout", 0) and not attribute(node, "clip", 0.0)
    if node.op_type != "GRU" or not usual or not attribute(node, "linear_before_reset", 0) or (len(node.input) > 4 and node.input[4]):
        return False
    return all(name in graph.constants or not name or fold(graph, name) for name in node.input[1:4])


def directions(graph: Graph, node: onnx.NodeProto, bits: int) -> list[Direction]:
    """The directions with their integer weights."""
    way, (weights, repeats) = attribute(node, "direction", b"forward"), (graph.array(name) for name in node.input[1:3])
    hidden = repeats.shape[2]
    bias = graph.array(node.input[3]) if len(node.input) > 3 and node.input[3] else np.zeros((len(weights), 6 * hidden), np.float32)
    found = []
    for number, (one, other, both) in enumerate(zip(weights, repeats, bias, strict=True)):
        before, after = both[: 3 * hidden].copy(), both[3 * hidden :].copy()
        before[: 2 * hidden] += after[: 2 * hidden]  # z and r add both products; only n has the second bias inside the reset
        after[: 2 * hidden] = 0.0
        backwards = way == b"reverse" or number == 1
        reads = factor(graph, node, f"{node.input[1]}_{number}", one, before, bits)
        found.append(
            Direction(
                number, f"{node.name}_{number}", backwards, reads, factor(graph, node, f"{node.input[2]}_{number}", other, after, bits)
            )
        )
    return found


def factor(graph: Graph, node: onnx.NodeProto, name: str, weight: np.ndarray, bias: np.ndarray, bits: int) -> tuple[str, ...]:
    """Names of a weight (outputs, inputs) as the product wants it, transposed, of its steps, zero points and bias."""
    steps = scales_of(weight, bits, weight.shape[1])
    whole = integers(graph, name, np.ascontiguousarray(nearest(weight, steps, bits).T), bits, node)
    zero = graph.constant(f"{name}_zero_point", np.zeros(len(weight), np.int8))
    return (
        whole,
        graph.constant(f"{name}_scale", steps[:, 0].astype(np.float32)),
        zero,
        graph.constant(f"{name}_bias_row", bias.astype(np.float32)),
    )


def initial(graph: Graph, node: onnx.NodeProto, hidden: int, sides: int) -> list[str]:
    """(batch, hidden) the first state of each direction: the node's own, or zeros."""
    if len(node.input) > 5 and node.input[5]:
        return [
            graph.node(
                "Gather",
                [node.input[5], graph.constant(f"{node.name}_side_{side}", np.array(side, np.int64))],
                [f"{node.name}_{side}_start"],
                f"{node.name}_{side}_start",
                node,
            )
            for side in range(sides)
        ]
    shape = graph.node("Shape", [node.input[0]], [f"{node.name}_shape"], f"{node.name}_shape", node)
    one, width = (graph.constant(f"{node.name}_{name}", np.array([value], np.int64)) for name, value in (("one", 1), ("hidden", hidden)))
    batch = graph.node("Gather", [shape, one], [f"{node.name}_batch"], f"{node.name}_batch", node, axis=0)
    size = graph.node("Concat", [batch, width], [f"{node.name}_size"], f"{node.name}_size", node, axis=0)
    return [graph.node("ConstantOfShape", [size], [f"{node.name}_start"], f"{node.name}_start", node)] * sides


def run(graph: Graph, node: onnx.NodeProto, side: Direction, start: str, sizes: str, hidden: int) -> tuple[str, str]:
    """(states of all steps (steps, batch, hidden), the last state (batch, hidden)) of one direction."""
    name = side.name
    read = graph.node("DynamicQuantizeMatMul", [node.input[0], *side.reads], [f"{name}_read"], f"{name}_read", node, domain="com.microsoft")
    way = [int(side.backwards)]
    graph.node(
        "Scan",
        [start, read],
        [f"{name}_last", f"{name}_states"],
        f"{name}_scan",
        node,
        body=step(side, sizes, hidden),
        num_scan_inputs=1,
        scan_input_directions=way,
        scan_output_directions=way,
    )
    return f"{name}_states", f"{name}_last"


def step(side: Direction, sizes: str, hidden: int) -> onnx.GraphProto:
    """One step: the state before (batch, hidden) and the product with the inputs (batch, 3 hidden) to the state after, twice."""
    prefix = f"{side.name}{INNER}"
    nodes: list[onnx.NodeProto] = []

    def add(op: str, inputs: list[str], *outputs: str, **told: object) -> None:
        nodes.append(onnx.helper.make_node(op, inputs, [prefix + one for one in outputs], name=prefix + outputs[0], **told))

    def own(*names: str) -> list[str]:
        return [prefix + one for one in names]

    add("DynamicQuantizeMatMul", [*own("before"), *side.repeats], "repeated", domain="com.microsoft")
    add("Split", [*own("read"), sizes], "read_zr", "read_n", axis=-1)
    add("Split", [*own("repeated"), sizes], "repeated_zr", "repeated_n", axis=-1)
    add("Add", own("read_zr", "repeated_zr"), "sum_zr")
    add("Sigmoid", own("sum_zr"), "zr")
    halves = onnx.helper.make_tensor(f"{prefix}halves", onnx.TensorProto.INT64, [2], [hidden, hidden])
    add("Split", own("zr", "halves"), "z", "r", axis=-1)
    add("Mul", own("r", "repeated_n"), "reset")
    add("Add", own("read_n", "reset"), "sum_n")
    add("Tanh", own("sum_n"), "n")
    add("Sub", own("before", "n"), "apart")
    add("Mul", own("z", "apart"), "kept")
    add("Add", own("n", "kept"), "after")
    add("Identity", own("after"), "state")

    def told(name: str, width: int) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(prefix + name, onnx.TensorProto.FLOAT, [None, width])

    inputs, outputs = [told("before", hidden), told("read", 3 * hidden)], [told("after", hidden), told("state", hidden)]
    return onnx.helper.make_graph(nodes, f"{prefix}body", inputs, outputs, [halves])


def gather(graph: Graph, node: onnx.NodeProto, names: list[str], axis: int, output: str) -> None:
    """Put the directions beside each other along a new axis, under the name that the GRU's output had."""
    where = graph.constant(f"{node.name}_axis_{axis}", np.array([axis], np.int64))
    parts = [graph.node("Unsqueeze", [name, where], [f"{name}_side"], f"{name}_side", node) for name in names]
    graph.node("Concat", parts, [output], f"{output}_sides", node, axis=axis)


__all__ = ["dynamic"]
