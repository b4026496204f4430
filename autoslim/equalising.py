"""Move scales between what a layer reads and its weights, so that both fit their integers: x W = (x / s)(s W).

Xiao et al. 2023 (SmoothQuant, https://arxiv.org/abs/2211.10438, eq. 3-4) and, where the layer before takes the scale into its own
weights, Nagel et al. 2019 (cross-layer equalisation, https://arxiv.org/abs/1906.04721, section 4.1).
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from autoslim.onnx_graph import Graph, attribute
from autoslim.onnx_layers import Site

#: exponents that are tried, and the widest ratio of two scales
STRENGTHS, WIDEST = (0.5, 0.75, 0.9), 1e4
#: positively homogeneous: f(x / s) = f(x) / s for s > 0
HOMOGENEOUS = ("Relu", "LeakyRelu")


def scales(inputs: np.ndarray, weights: np.ndarray, strength: float) -> np.ndarray:
    """(channels,) s from the largest magnitudes of each channel's inputs and weights: inputs^strength / weights^(1 - strength)."""
    inputs, weights = (np.maximum(part, max(float(part.max()), 1e-12) / WIDEST) for part in (inputs, weights))
    found = inputs**strength / weights ** (1 - strength)
    return (found / np.exp(np.log(found).mean())).astype(np.float32)


def per_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """(channels,) maxima of (n, groups, channels per group * kernel)."""
    top = np.abs(values).max(0).reshape(-1)
    return top.reshape(channels, -1).max(1)


def widened(scale: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A scale per channel as (groups, channels per group * kernel), in the form of a row."""
    return np.repeat(scale, rows.shape[1] * rows.shape[2] // len(scale)).reshape(rows.shape[1], rows.shape[2])


def foldable(graph: Graph, tensor: str, sites: Sequence[Site]) -> list[tuple[str, int]] | None:
    """(constants whose axis carries the channels of ``tensor``) if the node before can take a scale; None if it cannot."""
    own = {site.node.name for site in sites}
    chain = tensor
    while True:
        readers, maker = graph.readers.get(chain, []), graph.made_by.get(chain)
        if maker is None or chain in graph.outputs or any(node.name not in own for node in readers):
            return None
        if maker.op_type not in HOMOGENEOUS:
            break
        own, chain = {maker.name}, maker.input[0]
    return carriers(graph, maker)


def carriers(graph: Graph, node: onnx.NodeProto) -> list[tuple[str, int]] | None:
    """The weight and bias of a node with the axis of its output channels; None if one is shared or computed."""
    if node.op_type == "Conv":
        axis = 0
    elif node.op_type == "Gemm":
        axis = 0 if attribute(node, "transB", 0) else 1
        if attribute(node, "alpha", 1.0) != 1 or attribute(node, "beta", 1.0) != 1:
            return None
    elif node.op_type == "LayerNormalization":
        axis = 0
        if len(graph.constants[node.input[1]].dims if node.input[1] in graph.constants else ()) != 1:
            return None
    else:
        return None
    names = [name for name in node.input[1:] if name]
    if any(name not in graph.constants or len(graph.readers[name]) != 1 for name in names):
        return None
    return [(names[0], axis), *((name, len(graph.constants[name].dims) - 1) for name in names[1:])]


def fold(graph: Graph, names: Sequence[tuple[str, int]], scale: np.ndarray) -> None:
    """Divide the channels of the constants by ``scale``."""
    for name, axis in names:
        value = graph.array(name)
        shape = [1] * value.ndim
        shape[axis] = -1
        graph.constants[name].CopyFrom(numpy_helper.from_array((value / scale.reshape(shape)).astype(value.dtype), name))


def insert(graph: Graph, tensor: str, sites: Sequence[Site], scale: np.ndarray) -> str:
    """Divide ``tensor`` by ``scale`` along its last axis, for these sites alone; returns the new tensor."""
    inverse = graph.constant(f"{tensor}_equaliser", (1 / scale).astype(np.float32))
    made = graph.node("Mul", [tensor, inverse], [f"{tensor}_equalised"], f"{tensor}_equalise", sites[0].node)
    graph.redirect([site.node for site in sites], tensor, made)
    return made
