"""Which nodes of an ONNX graph compute the layers whose bits are told, and how such a node reads its weight."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx

from autoslim.engine import Draft
from autoslim.formats import Format, parse
from autoslim.onnx_folding import fold, settled
from autoslim.onnx_graph import Graph, attribute
from autoslim.onnx_names import scopes

MATRICES, RECURRENT, TABLES = ("Conv", "Gemm", "MatMul"), ("LSTM", "GRU", "RNN"), ("Gather",)


@dataclass(frozen=True)
class Site:
    """A node that computes (a part of) ``layer``. Weights are seen as (groups, outputs per group, inputs): a matrix per group."""

    node: onnx.NodeProto
    layer: str
    format: Format

    @property
    def op(self) -> str:
        return self.node.op_type

    @property
    def data(self) -> str:
        return self.node.input[1 if self.op in TABLES else 0]

    @property
    def weight(self) -> str:
        return self.node.input[0 if self.op in TABLES else 1]

    @property
    def bias(self) -> str:
        """Name of the bias, "" where the node has none."""
        return self.node.input[2] if self.op in ("Conv", "Gemm") and len(self.node.input) > 2 else ""

    @cached_property
    def groups(self) -> int:
        return int(attribute(self.node, "group", 1)) if self.op == "Conv" else 1

    @property
    def axis(self) -> int:
        """The axis of output channels in the weight as it lies in the graph."""
        return 0 if self.op in ("Conv", *TABLES) or (self.op == "Gemm" and attribute(self.node, "transB", 0)) else 1

    @property
    def geometry(self) -> tuple:
        """What decides how the inputs become rows; () for a product of matrices."""
        if self.op != "Conv":
            return ()
        told = [attribute(self.node, name, None) for name in ("kernel_shape", "strides", "pads", "dilations")]
        return (self.groups, *(tuple(value) if value is not None else None for value in told))

    def matrices(self, weight: np.ndarray) -> np.ndarray:
        """(groups, outputs per group, inputs) of a weight as it lies in the graph."""
        flat = weight.reshape(len(weight), -1) if self.axis == 0 else weight.T
        return flat.reshape(self.groups, -1, flat.shape[1])

    def stored(self, matrices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """The inverse of :meth:`matrices`."""
        flat = matrices.reshape(-1, matrices.shape[2])
        return flat.reshape(shape) if self.axis == 0 else flat.T


def sites(graph: Graph, draft: Draft) -> tuple[list[Site], dict[str, str]]:
    """(the nodes of the layers in ``draft.bits`` in the order of the graph, {layer: why it stays as it is})."""
    wanted = {full: layer for layer in draft.bits for full in places(draft, layer)}
    wanted |= {again: wanted[first] for first, again in draft.twins() if first in wanted}  # a graph names a shared weight after any of them
    found: list[Site] = []
    odd: dict[str, str] = {}
    for node in list(graph.model.graph.node):
        if node.op_type not in (*MATRICES, *RECURRENT, *TABLES):
            continue
        full = layer_of(node, graph, wanted)
        if full is None:
            continue
        site = Site(node, wanted[full], parse(draft.bits[wanted[full]]))
        for name in node.input[1:3] if site.op in (*MATRICES, *RECURRENT) else ():
            fold(graph, name)
        why = unfit(site, graph)
        if why:
            odd[site.layer] = why
        else:
            found.append(site)
    present = {site.layer for site in found}
    missing = {layer: "no node of the graph carries its weight" for layer in draft.bits if layer not in present}
    return found, {layer: odd.get(layer, why) for layer, why in missing.items()}


def places(draft: Draft, layer: str) -> list[str]:
    """Names of the modules with weights that stand where ``layer`` stood."""
    if not draft.has(layer):
        return []
    return [full for full, _ in draft.parts(layer)] or [layer]


def unfit(site: Site, graph: Graph) -> str:
    """Why a node cannot be treated; "" if it can."""
    if any(name not in graph.constants for name in (site.weight, *(site.node.input[2:3] if site.op in RECURRENT else ()))):
        return "its weight is computed in the graph"
    if site.op == "Gemm" and (
        attribute(site.node, "transA", 0) or attribute(site.node, "alpha", 1.0) != 1 or attribute(site.node, "beta", 1.0) != 1
    ):
        return "its product is scaled or transposed"
    if site.op in ("Gemm", "MatMul", *TABLES) and len(graph.constants[site.weight].dims) != 2:
        return "its weight is no matrix"
    if site.bias and site.bias not in graph.constants:
        return "its bias is computed in the graph"
    return ""


def layer_of(node: onnx.NodeProto, graph: Graph, wanted: Mapping[str, str]) -> str | None:
    """Which wanted module a node computes: by the name of its weight, else by the module scope that the exporter noted."""
    if not any(name and settled(graph, name) for name in node.input):
        return None  # a product of two activations
    for name in node.input:
        if name.endswith(".weight") and name[: -len(".weight")] in wanted:
            return name[: -len(".weight")]
    if node.op_type in TABLES:
        return None  # indexing is everywhere; only the table's name tells
    return next((scope for scope in reversed(scopes(node)) if scope in wanted), None)


def width(graph: Graph, node: onnx.NodeProto) -> tuple[int, int] | None:
    """(output channels, input channels) of a node with a weight, through the nodes that widen it; None for others."""
    if node.op_type not in (*MATRICES, "MatMulInteger") or (node.op_type == "Conv" and attribute(node, "group", 1) != 1):
        return None
    name = node.input[1]
    while name not in graph.constants and name in graph.made_by and graph.made_by[name].op_type in ("DequantizeLinear", "Cast"):
        name = graph.made_by[name].input[0]
    dims = list(graph.constants[name].dims) if name in graph.constants else []
    if len(dims) < 2:
        return None
    turned = node.op_type in ("MatMul", "MatMulInteger") or (node.op_type == "Gemm" and not attribute(node, "transB", 0))
    return (dims[1], dims[0]) if turned else (dims[0], dims[1])
