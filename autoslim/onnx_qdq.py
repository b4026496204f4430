"""QDQ pairs into an ONNX graph: which nodes run as integers, which tensors are bytes, and how.

ONNX Runtime joins the pairs and what lies between into integer kernels. A byte is written only where an integer kernel reads it,
or where the kernel has no other output: products of matrices give floats, so that no outlier of an output costs the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from autoslim.onnx_graph import Graph
from autoslim.onnx_layers import Site
from autoslim.ranges import Range, scale_of

#: nodes that follow their inputs into integers, because ONNX Runtime has integer kernels or lets the values pass
PASSING = ("MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
CLIPPING = ("Relu", "Clip")
FOLLOWERS = ("Add", "AveragePool", "GlobalAveragePool", "Concat", *CLIPPING, *PASSING)
INT32 = 2**30


@dataclass(frozen=True)
class Weight:
    """A layer's weight as integers in the form of the graph, with one step per output channel; ``bits`` as stored. ``shift``: (outputs,)
    what its bias takes up, None for nothing."""

    whole: np.ndarray
    steps: np.ndarray
    bits: int
    shift: np.ndarray | None = None


def joined(graph: Graph, sites: Sequence[Site]) -> dict[str, onnx.NodeProto]:
    """{name: node} of the nodes that run as integers: the sites, and nodes that read from joined nodes alone. A node between a
    product of matrices and float readers stays in float, as nothing is won there."""
    own = {site.node.name for site in sites}
    found: dict[str, onnx.NodeProto] = {}
    for node in graph.model.graph.node:
        makers = [graph.made_by.get(name) for name in data(graph, node)]
        follows = node.op_type in FOLLOWERS and makers and all(maker is not None and maker.name in found for maker in makers)
        if node.op_type in ("Add", "Concat") and len(makers) < len([name for name in node.input if name]):
            follows = False  # the sum with a constant runs in float
        if node.name in own or follows:
            found[node.name] = node
    while True:
        idle = [
            name
            for name, node in found.items()
            if name not in own
            and not any(reader.name in found for output in node.output for reader in graph.readers.get(output, []))
            and all(graph.made_by[tensor].op_type in ("Gemm", "MatMul") for tensor in data(graph, node))
        ]
        if not idle:
            return found
        for name in idle:
            del found[name]


def data(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """The tensors that a node computes with; shapes, limits and weights are left out."""
    reads = graph.reads(node)
    return reads[:1] if node.op_type in ("Conv", "Gemm", "MatMul", *PASSING, *CLIPPING) else reads


def clips(graph: Graph, node: onnx.NodeProto, inside: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether bytes do a Relu's or a Clip's work by themselves: a joined node before it, which nothing else reads."""
    if node.op_type not in CLIPPING or node.name not in inside:
        return False
    maker, low = graph.made_by.get(node.input[0]), limits(graph, node)[0]
    alone = len(graph.readers[node.input[0]]) == 1 and node.input[0] not in graph.outputs
    return maker is not None and maker.name in inside and maker.op_type not in PASSING and alone and low <= 0


def limits(graph: Graph, node: onnx.NodeProto) -> Range:
    """What a Relu or a Clip lets through."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    told = [float(graph.array(name)) if name in graph.constants else None for name in (*node.input[1:3], "", "")[:2]]
    return (-np.inf if told[0] is None else told[0]), (np.inf if told[1] is None else told[1])


def byte_tensors(graph: Graph, inside: Mapping[str, onnx.NodeProto]) -> list[str]:
    """Tensors that become bytes, in the order of the graph: what joined nodes read, and what those give that can only give bytes."""
    found: dict[str, None] = {}
    for node in inside.values():
        found.update(dict.fromkeys(data(graph, node)))
        if node.op_type not in ("Gemm", "MatMul"):
            found.update(dict.fromkeys(node.output))
    return list(found)


def insert(
    graph: Graph,
    sites: Sequence[Site],
    inside: Mapping[str, onnx.NodeProto],
    ranges: Mapping[str, Range],
    weights: Mapping[str, Weight],
) -> None:
    """Write the pairs. ``ranges``: of every byte tensor; ``weights``: by the name of the site's node."""
    graph.look()
    steps = {name: scale_of(*pair) for name, pair in settled(graph, inside, ranges).items()}
    order = {node.name: index for index, node in enumerate(graph.model.graph.node)}
    for name in sorted(inside, key=order.get, reverse=True):
        if clips(graph, inside[name], inside):
            drop_clip(graph, inside[name], steps)
    by_node, reads = {site.node.name: site for site in sites}, {site.node.name: site.data for site in sites}
    for tensor in steps:
        if tensor in graph.readers or tensor in graph.outputs:
            pair(graph, tensor, steps[tensor], inside)
    for name, weight in weights.items():
        weigh(graph, by_node[name], weight, steps[reads[name]][0])


def settled(graph: Graph, inside: Mapping[str, onnx.NodeProto], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges in which clips are limits, and passing nodes give what they took."""
    found = dict(ranges)
    order = [node for node in graph.model.graph.node if node.name in inside]
    for node in order:
        if node.op_type in CLIPPING and node.output[0] in found:
            low, high = limits(graph, node)
            found[node.output[0]] = max(found[node.output[0]][0], low), min(found[node.output[0]][1], high)
    for node in order:
        if clips(graph, node, inside):
            found[node.input[0]] = found[node.output[0]]
    for node in order:
        if node.op_type in PASSING and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def drop_clip(graph: Graph, node: onnx.NodeProto, steps: dict[str, tuple[float, int]]) -> None:
    """Take out a node whose work the bytes before it do; its output keeps its name."""
    maker = graph.made_by[node.input[0]]
    output = node.output[0]
    for index, name in enumerate(maker.output):
        if name == node.input[0]:
            maker.output[index] = output
    steps.pop(node.input[0], None)
    graph.model.graph.node.remove(node)
    graph.look()


def pair(graph: Graph, tensor: str, step: tuple[float, int], inside: Mapping[str, onnx.NodeProto]) -> None:
    """A QuantizeLinear and a DequantizeLinear on a tensor. Where its maker gives bytes, everybody reads the pair; else joined nodes do."""
    maker = graph.made_by.get(tensor)
    readers = graph.readers.get(tensor, [])
    whole = maker is not None and maker.name in inside and maker.op_type not in ("Gemm", "MatMul")
    if whole or maker is None or maker.name not in inside:
        taking = readers if whole else [node for node in readers if node.name in inside]
    else:  # a product of matrices: bytes for integer readers, the float itself for the others
        taking = [node for node in readers if node.name in inside]
    if not taking and not (whole and tensor in graph.outputs):
        return
    scale = graph.constant(f"{tensor}_scale", np.array(step[0], np.float32))
    zero = graph.constant(f"{tensor}_zero_point", np.array(step[1], np.uint8))
    source, back = tensor, f"{tensor}_bytes_back"
    if whole and tensor in graph.outputs:  # the graph's output keeps its name
        source, back = f"{tensor}_float", tensor
        for index, name in enumerate(maker.output):
            if name == tensor:
                maker.output[index] = source
    else:
        graph.redirect(taking, tensor, back)
    like = maker if maker is not None else taking[0]
    made = graph.node("QuantizeLinear", [source, scale, zero], [f"{tensor}_bytes"], f"{tensor}_QuantizeLinear", like)
    graph.node("DequantizeLinear", [made, scale, zero], [back], f"{tensor}_DequantizeLinear", like)


def words(graph: Graph, sites: Sequence[Site], ranges: Mapping[str, Range]) -> None:
    """Pairs of 16-bit integers on what these sites read; other readers keep the float. ONNX Runtime has no kernels for them: it rounds, and
    computes in float."""
    graph.look()
    for tensor, (low, high) in ranges.items():
        taking = [site.node for site in sites if site.data == tensor]
        step, zero = scale_of(low, high, 2**16 - 1)
        label = f"{tensor}_words"
        scale, point = (
            graph.constant(f"{label}_scale", np.array(step, np.float32)),
            graph.constant(f"{label}_zero_point", np.array(zero, np.uint16)),
        )
        graph.redirect(taking, tensor, f"{label}_back")
        made = graph.node("QuantizeLinear", [tensor, scale, point], [label], f"{label}_QuantizeLinear", taking[0])
        graph.node("DequantizeLinear", [made, scale, point], [f"{label}_back"], f"{label}_DequantizeLinear", taking[0])


def weigh(graph: Graph, site: Site, weight: Weight, step: float) -> None:
    """Put integers in the place of a site's weight and bias. ``step`` is that of the bytes it reads."""
    node, name = site.node, site.weight
    whole, steps = weight.whole, weight.steps.astype(np.float32)
    value = graph.array(site.bias).reshape(-1) if site.bias else None
    if site.bias and weight.shift is not None and value.size == weight.shift.size:
        value = (value + weight.shift).astype(np.float32)
    if site.bias:
        need = np.abs(value) / (INT32 * step)  # a bias must fit its 32 bits
        if (need > steps).any():
            wider = np.maximum(steps, need).astype(np.float32)
            shape = [1] * whole.ndim
            shape[site.axis] = -1
            whole, steps = np.rint(whole * (steps / wider).reshape(shape)).astype(np.int8), wider
    base = unique(graph, name, node)
    bytes_name = integers(graph, base, whole, weight.bits, node)
    scale = graph.constant(f"{base}_scale", steps)
    zero = graph.constant(f"{base}_zero_point", np.zeros(len(steps), np.int8))
    back = graph.node(
        "DequantizeLinear", [bytes_name, scale, zero], [f"{base}_DequantizeLinear_Output"], f"{base}_DequantizeLinear", node, axis=site.axis
    )
    node.input[1] = back
    if site.bias:
        both = (step * steps.astype(np.float64)).astype(np.float32)
        if value.size != both.size:
            return
        kept = np.clip(np.rint(value / both.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
        label = unique(graph, site.bias, node)
        bias, bias_scale = graph.constant(f"{label}_quantized", kept), graph.constant(f"{label}_quantized_scale", both)
        bias_zero = graph.constant(f"{label}_quantized_zero_point", np.zeros(len(both), np.int32))
        node.input[2] = graph.node(
            "DequantizeLinear",
            [bias, bias_scale, bias_zero],
            [f"{label}_DequantizeLinear_Output"],
            f"{label}_DequantizeLinear",
            node,
            axis=0,
        )


def unique(graph: Graph, name: str, node: onnx.NodeProto) -> str:
    """The constant's own name where one node reads it, else one for this node."""
    return name if len(graph.readers.get(name, [])) <= 1 else f"{name}_{node.name}"


def integers(graph: Graph, name: str, whole: np.ndarray, bits: int, like: onnx.NodeProto) -> str:
    """The name of a signed tensor of bytes, or of 16 bits; four bits are stored as such and widened when the file is opened."""
    if bits >= 8:
        return graph.constant(f"{name}_quantized", whole)
    narrow = graph.constant(f"{name}_int{bits}", four_bits(whole))
    known = next((node for node in graph.model.graph.node if node.op_type == "Cast" and node.input[0] == narrow), None)
    if known is not None:  # of a layer that is called again
        return known.output[0]
    return graph.node("Cast", [narrow], [f"{narrow}_quantized"], f"{narrow}_widen", like, to=onnx.TensorProto.INT8)


def four_bits(whole: np.ndarray) -> np.ndarray:
    """Whole numbers from -8 to 7 as int4, the same shape."""
    import ml_dtypes

    return whole.astype(ml_dtypes.int4)
