"""Linear layers whose inputs become bytes at every run, over the range that they have in it: nothing needs to be known of them before.

x = s (q - z) with s and z of the tensor at hand (ONNX's DynamicQuantizeLinear: the range of the whole tensor, widened to hold 0; Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, eq. 1), the product of bytes with a signed weight W = t V, a step t for each output, and y = (s t) (q - z) V + b
(eq. 3). ONNX Runtime joins these nodes to a DynamicQuantizeMatMul, or, where several layers read the same bytes, to a MatMulIntegerToFloat each.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from autoslim.onnx_graph import Graph
from autoslim.onnx_layers import Site
from autoslim.onnx_qdq import Weight, integers


def insert(graph: Graph, sites: Sequence[Site], weights: Mapping[str, Weight]) -> None:
    """Put integer products in the place of the sites, each a MatMul or a Gemm. ``weights``: by the name of the site's node. Those that read
    one tensor share its bytes."""
    graph.look()
    read: dict[str, tuple[str, str, str]] = {}
    for site in sites:
        if site.data not in read:
            read[site.data] = in_bytes(graph, site.data, site.node)
        multiply(graph, site, weights[site.node.name], *read[site.data])


def in_bytes(graph: Graph, tensor: str, like: onnx.NodeProto) -> tuple[str, str, str]:
    """Names of a tensor's bytes, of their step and of their zero point, found at every run."""
    names = f"{tensor}_live", f"{tensor}_live_scale", f"{tensor}_live_zero_point"
    graph.node("DynamicQuantizeLinear", [tensor], list(names), f"{tensor}_DynamicQuantizeLinear", like)
    return names


def multiply(graph: Graph, site: Site, weight: Weight, data: str, step: str, zero: str) -> None:
    """Bytes (..., inputs) times a site's weight, and its bias, under the name that its output had."""
    node, name, label = site.node, site.weight, site.node.name
    whole = integers(graph, name, weight.whole.T if site.axis == 0 else weight.whole, weight.bits, node)
    steps = graph.constant(f"{name}_scale", weight.steps.astype(np.float32))
    bias = bias_of(graph, site, weight)
    output = f"{label}_scaled" if bias else node.output[0]
    product = graph.node("MatMulInteger", [data, whole, zero], [f"{label}_product"], label, node)
    wide = graph.node("Cast", [product], [f"{label}_product_float"], f"{label}_to_float", node, to=onnx.TensorProto.FLOAT)
    both = graph.node("Mul", [step, steps], [f"{label}_steps"], f"{label}_join_steps", node)
    graph.node("Mul", [wide, both], [output], f"{label}_scale", node)
    if bias:
        graph.node("Add", [output, bias], [node.output[0]], f"{label}_add", node)
    graph.model.graph.node.remove(node)


def bias_of(graph: Graph, site: Site, weight: Weight) -> str:
    """Name of a site's bias as floats (outputs,), with what it takes up; "" where it has none."""
    if not site.bias:
        return ""
    value = graph.array(site.bias).reshape(-1)
    if weight.shift is not None and value.size == weight.shift.size:
        value = value + weight.shift
    return graph.constant(f"{site.bias}_row", np.broadcast_to(value, weight.steps.shape).astype(np.float32))


__all__ = ["insert"]
