"""The bits of a draft into an ONNX graph: integer kernels, dynamic recurrent layers, tables of bytes, narrow storage.

Static ranges and weights come from calibration inputs: :mod:`calibration` looks, :mod:`choosing` decides by the error of each
layer's outputs, :mod:`rounding` makes integers, :mod:`onnx_qdq` and :mod:`onnx_storage` write.
"""

import json
from collections.abc import Sequence

import numpy as np
import onnx

from autoslim import equalising, onnx_qdq, onnx_recurrent, onnx_storage
from autoslim.calibration import Feed, Seen, observe
from autoslim.choosing import Choice, Reader, choose, choose_alone
from autoslim.engine import Draft
from autoslim.onnx_graph import Graph
from autoslim.onnx_layers import MATRICES, RECURRENT, TABLES, Site, sites
from autoslim.onnx_qdq import Weight
from autoslim.ranges import Range
from autoslim.rounding import adaround, gptq, nearest, scales_of

#: the file's note of what was asked of which layer
META = "autoslim.bits"
#: rows per sample up to which MatMulNBits was measured faster than float; relative error of outputs that is worth a note
FEW_ROWS, LOUD = 4, 0.05
#: operator set in which four-bit integers exist
FOUR_BITS = 21


def quantise(model: onnx.ModelProto, draft: Draft, feeds: Sequence[Feed]) -> tuple[onnx.ModelProto, list[str]]:
    """(a graph with the bits of ``draft``, notes). ``feeds`` are calibration inputs in small batches. ``model`` is changed."""
    graph = Graph(model)
    found, left = sites(graph, draft)
    notes = [f"bits: {layer} stays in float, {why}" for layer, why in left.items()]
    if found:
        narrow = any(site.format.stored == 4 for site in found)
        if narrow and not four_bits_allowed(graph):
            return model, [*notes, "bits: everything stays in float, the graph holds a GroupNormalization of an older operator set"]
        notes += Writer(graph, found, feeds).write()
        graph.need_domain("", FOUR_BITS if narrow else 13)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | {META: json.dumps(draft.bits)})
    return model, notes


def four_bits_allowed(graph: Graph) -> bool:
    """Whether the operator set may be raised: of the operators used, only GroupNormalization changed its meaning."""
    version = next((entry.version for entry in graph.model.opset_import if entry.domain == ""), 1)
    return version >= FOUR_BITS or not any(node.op_type == "GroupNormalization" for node in graph.model.graph.node)


class Writer:
    """One graph on its way to its bits."""

    def __init__(self, graph: Graph, found: Sequence[Site], feeds: Sequence[Feed]) -> None:
        self.graph, self.notes = graph, []
        self.matrices = [site for site in found if site.op in MATRICES]
        self.recurrent = [site for site in found if site.op in RECURRENT]
        self.tables = [site for site in found if site.op in TABLES]
        self.scale: dict[str, np.ndarray] = {}
        self.inside = onnx_qdq.joined(graph, [site for site in self.matrices if site.format.integer])
        self.seen = self.look(feeds)
        few = [site.node.name for site in self.matrices if self.in_blocks(site)]
        self.bytes = [site for site in self.matrices if site.format.integer and site.node.name not in few]
        self.blocks = [site for site in self.matrices if site.node.name in few]
        self.floats = [site for site in self.matrices if not site.format.integer]
        if few:
            self.inside = onnx_qdq.joined(graph, self.bytes)

    def look(self, feeds: Sequence[Feed]) -> dict[str, Seen]:
        """What the tensors held that need a range, or whose rows are needed."""
        wanted: dict[str, set] = {tensor: set() for tensor in onnx_qdq.byte_tensors(self.graph, self.inside)}
        for site in self.matrices:
            if site.format.integer or compensated(site):
                wanted.setdefault(site.data, set()).add(site.geometry)
        return observe(self.graph.model, wanted, feeds) if wanted else {}

    def in_blocks(self, site: Site) -> bool:
        """Whether four-bit weights are multiplied by MatMulNBits."""
        if site.format.stored != 4 or not site.format.integer or site.op not in ("MatMul", "Gemm"):
            return False
        inputs = self.graph.constants[site.weight].dims[1 - site.axis]
        return self.seen[site.data].positions <= FEW_ROWS and inputs % onnx_storage.BLOCK == 0

    def write(self) -> list[str]:
        ranges = self.decide()
        weights = {site.node.name: self.weight(site) for site in self.bytes}
        onnx_qdq.insert(self.graph, self.bytes, self.inside, ranges, weights)
        for site in self.blocks:
            integer, steps = self.narrow(site, onnx_storage.BLOCK)
            onnx_storage.blocks(self.graph, site.node, integer, steps, onnx_qdq.unique(self.graph, site.weight, site.node))
        for site in {site.weight: site for site in self.floats}.values():
            self.store(site)
        for site in self.tables:
            self.table(site)
        for site in self.recurrent:
            self.recur(site)
        self.graph.tidy()
        return self.notes

    # -- integer activations ----------------------------------------------------------------------------------------------

    def decide(self) -> dict[str, Range]:
        """The range of every tensor of bytes; equalisers are written on the way."""
        readers: dict[str, list[Site]] = {}
        for site in self.bytes:
            readers.setdefault(site.data, []).append(site)
        method = self.bytes[0].format.ranges if self.bytes else "measured"
        found = {}
        for tensor in onnx_qdq.byte_tensors(self.graph, self.inside):
            if tensor not in readers:
                found[tensor] = choose_alone(self.seen[tensor], method)
                continue
            choice, place = self.choose(tensor, readers[tensor])
            found[place] = choice.range
            if choice.error > LOUD:
                layers = ", ".join(sorted({site.layer for site in readers[tensor]}))
                self.notes.append(
                    f"bits: {layers}: outputs differ by {choice.error:.0%} of their energy as integers; 32 may be better there"
                )
        return found

    def choose(self, tensor: str, group: Sequence[Site]) -> tuple[Choice, str]:
        """(the choice for a tensor that ``group`` reads, the tensor that becomes bytes)."""
        seen, only = self.seen[tensor], all(site.node.name in self.inside for site in group)
        told = [Reader(site, site.matrices(self.graph.array(site.weight)), seen.rows_of(site.geometry)) for site in group]
        alone = all(len(self.graph.readers[site.weight]) == 1 for site in group) and only
        carriers = equalising.foldable(self.graph, tensor, group) if alone else None
        linear = alone and not any(site.geometry for site in group)
        choice = choose(seen, told, carriers is not None, linear)
        if choice.scale is None:
            return choice, tensor
        for reader in told:
            self.scale[reader.site.node.name] = equalising.widened(choice.scale, reader.rows)
        if carriers is not None:
            equalising.fold(self.graph, carriers, choice.scale)
            return choice, tensor
        return choice, equalising.insert(self.graph, tensor, group, choice.scale)

    def weight(self, site: Site) -> Weight:
        """The weight of a site as integers with a step per output."""
        value = self.graph.array(site.weight)
        inputs = site.matrices(value).shape[2]
        integer, steps = self.narrow(site, inputs)
        whole = site.stored(integer.reshape(site.groups, -1, inputs), value.shape)
        return Weight(np.ascontiguousarray(whole), steps[:, 0], site.format.stored)

    # -- weights ----------------------------------------------------------------------------------------------------------

    def narrow(self, site: Site, block: int, half: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(integers (outputs, inputs), steps (outputs, blocks)) of a site, its equaliser included."""
        matrices = site.matrices(self.graph.array(site.weight)).astype(np.float64)
        scale = self.scale.get(site.node.name)
        matrices = matrices if scale is None else matrices * scale[:, None, :]
        rows = self.rows(site, scale) if compensated(site) else None
        bits, signed = site.format.stored, block < matrices.shape[2] or half
        integers, steps = [], []
        for index, matrix in enumerate(matrices):
            x = None if rows is None else rows[:, index].astype(np.float64)
            step = scales_of(matrix, bits, block, None if x is None else np.square(x).mean(0), signed)
            step = onnx_storage.half_steps(step) if half else step
            integers.append(integer_of(matrix, step, site, x))
            steps.append(step)
        return np.concatenate(integers), np.concatenate(steps)

    def rows(self, site: Site, scale: np.ndarray | None) -> np.ndarray:
        rows = self.seen[site.data.removesuffix("_equalised")].rows_of(site.geometry)
        return rows if scale is None else rows / scale

    def store(self, site: Site) -> None:
        """A float layer with a narrow weight."""
        if site.format.stored == 16:
            self.half(site, site.weight)
            return
        value = self.graph.array(site.weight)
        inputs = site.matrices(value).shape[2]
        block = inputs if site.format.stored == 8 else onnx_storage.block_of(inputs)
        integer, steps = self.narrow(site, block, half=True)
        onnx_storage.whole(self.graph, site.weight, site.node, integer, steps, site.format.stored, site.axis == 1)

    def half(self, site: Site, name: str) -> None:
        why = onnx_storage.halves(self.graph, name, site.node)
        if why:
            self.notes.append(f"bits: {site.layer} stays in 32 bits, it {why}")

    def table(self, site: Site) -> None:
        """An embedding."""
        width = self.graph.constants[site.weight].dims[1]
        if site.format.stored == 16:
            onnx_storage.half_table(self.graph, site.node, site.weight)
        elif site.format.stored == 4 and width % onnx_storage.BLOCK == 0:
            onnx_storage.narrow_table(self.graph, site.node, site.weight, 4)
        else:
            if site.format.stored == 4:
                self.notes.append(f"bits: {site.layer} is stored in 8 bits, {width} columns are no multiple of {onnx_storage.BLOCK}")
            onnx_storage.table(self.graph, site.node, site.weight)

    def recur(self, site: Site) -> None:
        """A recurrent layer: integer kernels where there are some, else narrow storage."""
        if site.format.integer:
            if onnx_recurrent.dynamic(self.graph, site.node, site.format.stored):
                return
            self.notes.append(f"bits: {site.layer}: {onnx_recurrent.FLOAT}")
        for name in site.node.input[1:3]:
            if site.format.stored == 16:
                self.half(site, name)
                continue
            value = self.graph.array(name)
            flat = value.reshape(-1, value.shape[-1])
            block = flat.shape[1] if site.format.stored == 8 else onnx_storage.block_of(flat.shape[1])
            steps = onnx_storage.half_steps(scales_of(flat, site.format.stored, block, signed=True))
            integer = nearest(flat, steps, site.format.stored)
            onnx_storage.whole(self.graph, name, site.node, integer, steps, site.format.stored, False)


def compensated(site: Site) -> bool:
    """Whether rounding looks at the layer's inputs: below eight bits unless told otherwise."""
    told = site.format.rounding
    return site.format.stored < 16 and (told in ("gptq", "adaround") or (told == "auto" and site.format.stored < 8))


def integer_of(matrix: np.ndarray, steps: np.ndarray, site: Site, rows: np.ndarray | None) -> np.ndarray:
    """(outputs, inputs) integers by the site's rounding."""
    bits = site.format.stored
    if rows is None:
        return nearest(matrix, steps, bits)
    if site.format.rounding == "adaround":
        return adaround(matrix, steps, bits, rows)
    return gptq(matrix, steps, bits, rows.T @ rows)


__all__ = ["META", "quantise"]
