"""The bits of a draft into an ONNX graph: integer kernels, dynamic linear and recurrent layers, tables of bytes, narrow storage.

Static ranges and weights come from calibration inputs: :mod:`calibration` looks, :mod:`choosing` decides by the error of each
layer's outputs, :mod:`rounding` makes integers, :mod:`onnx_qdq`, :mod:`onnx_dynamic` and :mod:`onnx_storage` write.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from autoslim import equalising, onnx_dynamic, onnx_qdq, onnx_recurrent, onnx_storage
from autoslim.calibration import Feed, Seen, observe
from autoslim.choosing import Choice, Reader, choose, choose_alone, everything, judged, product
from autoslim.engine import Draft
from autoslim.formats import FEW_ROWS, KNOBS, TABLE_BLOCK, Format, kept, kept_table
from autoslim.onnx_graph import Graph
from autoslim.onnx_layers import MATRICES, RECURRENT, TABLES, Site, sites
from autoslim.onnx_qdq import Weight
from autoslim.ranges import Range, rounded
from autoslim.replaying import Replay
from autoslim.rounding import adaround, aligned, gptq, nearest, refined, scales_of, shrinkage, spread

#: the file's note of what was asked of which layer
META = "autoslim.bits"
#: and of the layers that were meant as integers and compute in float, {layer: relative error of its outputs as integers}
FELL = "autoslim.fell"
#: what a note says of layers with few weights
FEW = "bits: {} have few weights per output and are stored in 8 bits; fallback: never insists"
#: and of convolutions that were asked to find their ranges at every run
STATIC = "bits: {}: ranges of a convolution's inputs are found in calibration; at every run (ConvInteger) it would be slower than float"
#: relative error of outputs above which a layer computes in float
LOUD = 0.05
#: operator set in which four-bit integers exist
FOUR_BITS = 21
#: how often at most the calibration inputs run through what is rounded already
STAGES = 16
#: a weight that is still to be stored narrow, with the tensors that must be seen first
Task = tuple[tuple[str, ...], Callable[[Replay | None], None]]


def quantise(model: onnx.ModelProto, draft: Draft, feeds: Sequence[Feed]) -> tuple[onnx.ModelProto, list[str]]:
    """(a graph with the bits of ``draft``, notes). ``feeds`` are calibration inputs in small batches. ``model`` is changed."""
    graph = Graph(model)
    found, left = sites(graph, draft)
    notes, fell = [f"bits: {layer} stays in float, {why}" for layer, why in left.items()], {}
    if found:
        narrow = any(site.format.stored == 4 or site.format.activations == 16 for site in found)
        if narrow and not four_bits_allowed(graph):
            return model, [*notes, "bits: everything stays in float, the graph holds a GroupNormalization of an older operator set"]
        writer = Writer(graph, found, feeds)
        notes, fell = notes + writer.write(), writer.fell
        graph.need_domain("", FOUR_BITS if narrow else 13)
    told = {META: json.dumps(draft.bits)} | ({FELL: json.dumps(fell)} if fell else {})
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in model.metadata_props} | told)
    return model, notes


def four_bits_allowed(graph: Graph) -> bool:
    """Whether the operator set may be raised: of the operators used, only GroupNormalization changed its meaning."""
    version = next((entry.version for entry in graph.model.opset_import if entry.domain == ""), 1)
    return version >= FOUR_BITS or not any(node.op_type == "GroupNormalization" for node in graph.model.graph.node)


class Writer:
    """One graph on its way to its bits."""

    def __init__(self, graph: Graph, found: Sequence[Site], feeds: Sequence[Feed]) -> None:
        self.graph, self.notes, self.feeds = graph, [], feeds
        found = self.settled(self.widened(found))
        self.matrices = [site for site in found if site.op in MATRICES]
        self.recurrent = [site for site in found if site.op in RECURRENT]
        self.tables = [site for site in found if site.op in TABLES]
        self.scale: dict[str, np.ndarray] = {}
        self.fell: dict[str, float] = {}
        self.inside = onnx_qdq.joined(graph, [site for site in self.matrices if site.format.integer and not site.format.dynamic])
        self.seen = self.look(feeds)
        self.now = dict(self.seen)
        few = [site.node.name for site in self.matrices if self.in_blocks(site)]
        integer = [site for site in self.matrices if site.format.integer and site.node.name not in few]
        self.bytes, self.live = ([site for site in integer if site.format.dynamic == told] for told in (False, True))
        self.blocks = [site for site in self.matrices if site.node.name in few]
        self.floats = [site for site in self.matrices if not site.format.integer]
        if few:
            self.inside = onnx_qdq.joined(graph, self.bytes)

    def look(self, feeds: Sequence[Feed]) -> dict[str, Seen]:
        """What the tensors held that need a range, or whose rows are needed."""
        self.many: set[str] = set()
        wanted: dict[str, set] = {tensor: set() for tensor in onnx_qdq.byte_tensors(self.graph, self.inside)}
        for site in self.matrices:
            if site.format.activations == 16:
                wanted.setdefault(site.data, set())
            if site.format.integer or compensated(site):
                wanted.setdefault(site.data, set()).add(site.geometry)
            if compensated(site):
                self.many.add(site.data)
        for site in self.recurrent:
            for tensors in onnx_recurrent.read_by(self.graph, site.node) if compensated(site) else ():
                for tensor in tensors:
                    wanted.setdefault(tensor, set()).add(())
                    self.many.add(tensor)
        self.wanted = wanted
        return observe(self.graph.model, wanted, feeds, self.many) if wanted else {}

    def widened(self, found: Sequence[Site]) -> list[Site]:
        """The sites, convolutions and products with few weights per output in eight bits in the place of four; a note names all such layers."""
        few = {site.layer: None for site in found if any(kept(site.format, inputs) != site.format for inputs in self.inputs(site))}
        if few:
            self.notes.append(FEW.format(", ".join(few)))
        return [replace(site, format=kept(site.format, *self.inputs(site))) if site.op in MATRICES else site for site in found]

    def settled(self, found: Sequence[Site]) -> list[Site]:
        """The sites, convolutions with ranges from calibration in the place of ranges found at every run; a note names them."""
        asked = [site.op == "Conv" and site.format.dynamic for site in found]
        if any(asked):
            layers = dict.fromkeys(site.layer for site, told in zip(found, asked, strict=True) if told)
            self.notes.append(STATIC.format(", ".join(layers)))
        static = KNOBS["ranges"][0]
        return [
            replace(site, format=replace(site.format, ranges=static)) if told else site for site, told in zip(found, asked, strict=True)
        ]

    def inputs(self, site: Site) -> list[int]:
        """Weights per output of each of a layer's matrices; of a table none."""
        if site.op in RECURRENT:
            return [self.graph.constants[name].dims[-1] for name in site.node.input[1:3]]
        return [site.matrices(self.graph.array(site.weight)).shape[2]] if site.op in MATRICES else []

    def in_blocks(self, site: Site) -> bool:
        """Whether four-bit weights are multiplied by MatMulNBits."""
        if site.format.stored != 4 or not site.format.integer or site.op not in ("MatMul", "Gemm"):
            return False
        inputs = self.graph.constants[site.weight].dims[1 - site.axis]
        return self.seen[site.data].positions <= FEW_ROWS and inputs % onnx_storage.BLOCK == 0

    def write(self) -> list[str]:
        """Change the graph in place, layer by layer as decided; returns notes, a line each, on layers that got something else than they
        were asked for."""
        ranges, spans = self.decide(), self.judge()
        replay = self.replay()
        weights = {site.node.name: self.weight(site, ranges) for site in self.bytes}
        live = {site.node.name: self.weight(site, spans) for site in self.live}
        onnx_qdq.insert(self.graph, self.bytes, self.inside, ranges, weights)
        onnx_dynamic.insert(self.graph, self.live, live)
        for site in self.blocks:
            integer, steps = self.narrow(site, onnx_storage.BLOCK)
            onnx_storage.blocks(self.graph, site.node, integer, steps, onnx_qdq.unique(self.graph, site.weight, site.node))
        self.store_all(replay)
        sixteen = [site for site in self.floats if site.format.activations == 16 and site.data in self.seen]
        onnx_qdq.words(self.graph, sixteen, {site.data: choose_alone(self.seen[site.data], site.format) for site in sixteen})
        self.graph.tidy()
        return self.notes

    # -- narrow storage, layer after layer --------------------------------------------------------------------------------

    def replay(self) -> Replay | None:
        """The graph as it is now, to look at again; None where no float layer's rounding looks at its inputs."""
        if not any(compensated(site) for site in (*self.floats, *self.recurrent)):
            return None
        copied = Graph(onnx.ModelProto.FromString(self.graph.model.SerializeToString()))
        copied.tidy()
        return Replay(copied.model, self.wanted, self.feeds, self.many)

    def store_all(self, replay: Replay | None) -> None:
        """Store what has float kernels in the order of the graph, so that each weight is rounded for inputs that come from rounded layers."""
        for site in self.tables:
            self.table(site, replay)
        place = {node.name: number for number, node in enumerate(self.graph.model.graph.node)}
        sites = [*{site.weight: site for site in self.floats}.values(), *self.recurrent]
        tasks = [task for site in sorted(sites, key=lambda site: place[site.node.name]) for task in self.tasks(site)]
        stages = in_stages([tensor for tensors, _ in tasks for tensor in tensors])
        last = {tensor: number for number, (tensors, _) in enumerate(tasks) for tensor in tensors}
        for number, (tensors, store) in enumerate(tasks):
            fresh = [stages.pop(tensor) for tensor in tensors if tensor in stages]
            if fresh and replay is not None:
                again = [tensor for stage in fresh for tensor in stage]
                self.now |= replay.seen(again)
                stages = {tensor: stage for tensor, stage in stages.items() if tensor not in again}
            store(replay)
            for tensor in tensors:
                if last[tensor] == number:
                    del self.now[tensor]  # rows of a large network are many

    def tasks(self, site: Site) -> list[Task]:
        """What is to be stored of a layer with float kernels."""
        if site.op in RECURRENT:
            return self.recur(site)
        return [((site.data,) if compensated(site) else (), partial(self.store, site))]

    # -- integer activations ----------------------------------------------------------------------------------------------

    def decide(self) -> dict[str, Range]:
        """The range of every tensor of bytes; equalisers are written on the way. Layers that lose too much leave the integers first."""
        groups = by_tensor(self.bytes)
        choices = {tensor: self.choose(tensor, group) for tensor, group in groups.items()}
        fell = [tensor for tensor, group in groups.items() if self.left_out(choices[tensor], group)]
        if fell:
            self.inside = onnx_qdq.joined(self.graph, self.bytes)
        form = self.bytes[0].format if self.bytes else None
        groups, found = by_tensor(self.bytes), {}
        for tensor in onnx_qdq.byte_tensors(self.graph, self.inside):
            if tensor in groups:
                found[self.place(tensor, groups[tensor], choices[tensor])] = choices[tensor].range
            else:
                found[tensor] = choose_alone(self.seen[tensor], form)
        return found

    def judge(self) -> dict[str, Range]:
        """{tensor: its range on all calibration inputs, the widest that it has in a run of them} of those whose range is found at every run; of layers
        that lose too much even so none. Of a tensor that was not looked at, as there are no calibration inputs, nothing is known."""
        found = {}
        for tensor, group in by_tensor(self.live).items():
            if tensor in self.seen:
                choice = everything(self.seen[tensor], self.readers(tensor, group))
                self.left_out(choice, group)
                found[tensor] = choice.range
        return found

    def left_out(self, choice: Choice, group: Sequence[Site]) -> bool:
        """Whether layers were moved to those that compute in float, as their outputs would be too far off as integers."""
        if not choice.error > LOUD:
            return False
        layers, own = sorted({site.layer for site in group}), [site for site in group if site.format.fallback != "never"]
        if not own:
            self.notes.append(f"bits: {', '.join(layers)}: outputs differ by {choice.error:.0%} of their energy as integers")
            return False
        names = {site.node.name for site in own}
        self.bytes, self.live = ([site for site in group if site.node.name not in names] for group in (self.bytes, self.live))
        self.floats += [replace(site, format=site.format.in_float()) for site in own]
        self.fell |= {site.layer: round(choice.error, 4) for site in own}
        told = ", ".join(sorted({site.layer for site in own}))
        self.notes.append(
            f"bits: {told} computes in float, its weights stored in {own[0].format.stored} bits: as integers its outputs would differ by "
            f"{choice.error:.0%} of their energy; fallback: never insists"
        )
        return True

    def choose(self, tensor: str, group: Sequence[Site]) -> Choice:
        """The choice for a tensor that ``group`` reads."""
        seen, only = self.seen[tensor], all(site.node.name in self.inside for site in group)
        told = self.readers(tensor, group)
        alone = all(len(self.graph.readers[site.weight]) == 1 for site in group) and only
        foldable = alone and equalising.foldable(self.graph, tensor, group) is not None
        return choose(seen, told, foldable, alone and not any(site.geometry for site in group))

    def readers(self, tensor: str, group: Sequence[Site]) -> list[Reader]:
        """The sites that read a tensor with their weights and the rows that they read."""
        seen = self.seen[tensor]
        return [Reader(site, site.matrices(self.graph.array(site.weight)), seen.rows_of(site.geometry)) for site in group]

    def place(self, tensor: str, group: Sequence[Site], choice: Choice) -> str:
        """The tensor that becomes bytes, once its scale, if it has one, is written."""
        if choice.scale is None:
            return tensor
        for site in group:
            self.scale[site.node.name] = equalising.widened(choice.scale, self.seen[tensor].rows_of(site.geometry))
        carriers = equalising.foldable(self.graph, tensor, group)
        if carriers is not None:
            equalising.fold(self.graph, carriers, choice.scale)
            return tensor
        return equalising.insert(self.graph, tensor, group, choice.scale)

    def weight(self, site: Site, ranges: Mapping[str, Range]) -> Weight:
        """The weight of a site as integers with a step per output, and what its bias takes up where the range of its inputs is known."""
        value = self.graph.array(site.weight)
        inputs = site.matrices(value).shape[2]
        integer, steps = self.narrow(site, inputs)
        whole = site.stored(integer.reshape(site.groups, -1, inputs), value.shape)
        shared = site.format.dynamic and any(len(self.graph.readers[name]) > 1 for name in (site.bias, site.weight) if name)
        corrected = site.bias and site.format.bias == "corrected" and site.data in ranges and not shared
        shift = self.shift(site, ranges[site.data], integer * steps) if corrected else None
        return Weight(np.ascontiguousarray(whole), steps[:, 0], site.format.stored, shift)

    def shift(self, site: Site, pair: Range, coded: np.ndarray) -> np.ndarray:
        """(outputs,) mean of what the layer gave minus mean of what it gives, on the rows that it read (Nagel et al. 2019,
        https://arxiv.org/abs/1906.04721, section 4.2). ``coded``: its weight (outputs, inputs) as stored, equaliser included."""
        rows = judged(self.seen[site.data.removesuffix("_equalised")].rows_of(site.geometry))
        matrices, scale = site.matrices(self.graph.array(site.weight)), self.scale.get(site.node.name)
        read = rows if scale is None else rows / scale
        got = product(rounded(read, *pair), coded.reshape(matrices.shape).astype(np.float32))
        return (product(rows, matrices) - got).mean(0).reshape(-1)

    # -- weights ----------------------------------------------------------------------------------------------------------

    def narrow(self, site: Site, block: int, half: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(integers (outputs, inputs), steps (outputs, blocks)) of a site, its equaliser included."""
        matrices = site.matrices(self.graph.array(site.weight)).astype(np.float64)
        scale = self.scale.get(site.node.name)
        matrices = matrices if scale is None else matrices * scale[:, None, :]
        alone = len(self.graph.readers.get(site.weight, ())) <= 1  # what several layers share is rounded once for all of them
        rows = self.rows(site, scale, self.now if half else self.seen) if compensated(site) and alone else None
        told = None if rows is None or not half else self.rows(site, scale, self.seen)
        samples = None if rows is None else self.seen_of(site, self.now if half else self.seen).samples_of(site.geometry)
        if half and told is not None and self.bias_of(site):  # the mean is left to the bias
            rows, told = rows - rows.mean(0), told - told.mean(0)
        bits, signed = site.format.stored, block < matrices.shape[2] or half
        one = scales_of(matrices.reshape(1, -1), bits, matrices.size, signed=signed) if site.format.per == "tensor" else None
        integers, steps = [], []
        for index, matrix in enumerate(matrices):
            x = None if rows is None else rows[:, index].astype(np.float64)
            damping = None if x is None else shrinkage(x, samples)
            matrix = matrix if told is None else aligned(matrix, x, told[:, index].astype(np.float64), damping)
            step = scales_of(matrix, bits, block, None if x is None else np.square(x).mean(0), signed)
            step = step if one is None else np.broadcast_to(one, step.shape).copy()
            step = onnx_storage.half_steps(step) if half and not wide_steps(site.format) else step
            integer, step = integer_of(matrix, step, site, x, half and one is None, damping)
            integers.append(integer)
            steps.append(step)
        return np.concatenate(integers), np.concatenate(steps)

    def rows(self, site: Site, scale: np.ndarray | None, seen: Mapping[str, Seen]) -> np.ndarray:
        rows = self.seen_of(site, seen).rows_of(site.geometry)
        return rows if scale is None else rows / scale

    @staticmethod
    def seen_of(site: Site, seen: Mapping[str, Seen]) -> Seen:
        return seen[site.data.removesuffix("_equalised")]

    def store(self, site: Site, replay: Replay | None) -> None:
        """A float layer with a narrow weight."""
        if not site.format.whole:
            self.half(site, site.weight)
            return
        name, value = site.weight, self.graph.array(site.weight)
        inputs = site.matrices(value).shape[2]
        block = inputs if site.format.stored >= 8 or site.format.fell else onnx_storage.block_of(inputs)
        integer, steps = self.narrow(site, block, half=True)
        coded = (integer * spread(steps, inputs)).astype(np.float32).reshape(site.groups, -1, inputs)
        bias = self.bias_of(site) if compensated(site) else ""
        if bias:
            moved = (self.graph.array(bias) + self.moved(site, coded)).astype(np.float32)
            self.graph.constants[bias].CopyFrom(numpy_helper.from_array(moved, bias))
        onnx_storage.whole(self.graph, name, site.node, integer, steps, site.format.stored, site.axis == 1, wide_steps(site.format))
        if replay is not None:
            replay.replace(name, site.stored(coded, value.shape))
            if bias:
                replay.replace(bias, moved)

    def bias_of(self, site: Site) -> str:
        """Name of the bias that can take up the mean error of a layer's outputs: its own, or that of the Add behind it; "" where there is none,
        where it or the weight has other readers, or where the format says otherwise."""
        after = self.graph.readers.get(site.node.output[0], [])
        added = list(after[0].input) if site.op == "MatMul" and [node.op_type for node in after] == ["Add"] else []
        name = site.bias or next((name for name in added if name in self.graph.constants), "")
        alone = bool(name) and len(self.graph.readers[name]) == 1 and len(self.graph.readers[site.weight]) == 1
        outputs = int(np.prod(site.matrices(self.graph.array(site.weight)).shape[:2]))
        fits = alone and tuple(self.graph.constants[name].dims) == (outputs,)
        return name if fits and site.format.bias == "corrected" else ""

    def moved(self, site: Site, coded: np.ndarray) -> np.ndarray:
        """(outputs,) mean of what the layer gave minus mean of what it gives, on the rows that it read before any layer was rounded and
        reads now (Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2). ``coded``: its weight (groups, outputs, inputs) as stored."""
        scale, matrices = self.scale.get(site.node.name), site.matrices(self.graph.array(site.weight)).astype(np.float64)
        matrices = matrices if scale is None else matrices * scale[:, None, :]
        before, now = (self.rows(site, scale, seen).mean(0, dtype=np.float64) for seen in (self.seen, self.now))  # (groups, inputs)
        return (np.einsum("goi,gi->go", matrices, before) - np.einsum("goi,gi->go", coded, now)).reshape(-1)

    def half(self, site: Site, name: str) -> None:
        """Store a weight in 16 bits; a note where it has to stay in 32."""
        why = onnx_storage.halves(self.graph, name, site.node, site.format.name == "bf16")
        if why:
            self.notes.append(f"bits: {site.layer} stays in 32 bits, it {why}")

    def table(self, site: Site, replay: Replay | None) -> None:
        """An embedding."""
        self.note_steps(site, "column")
        entries, width = self.graph.constants[site.weight].dims
        stored = kept_table(site.format, entries).stored
        if not site.format.whole:
            onnx_storage.half_table(self.graph, site.node, site.weight, site.format.name == "bf16")
            return
        name = site.weight
        if stored == 4 and width % TABLE_BLOCK == 0:
            coded = onnx_storage.narrow_table(self.graph, site.node, name, 4)
        else:
            if site.format.stored == 4:
                few = (
                    f"it has {entries} entries (fallback: never insists)"
                    if stored == 8
                    else f"{width} columns are no multiple of {TABLE_BLOCK}"
                )
                self.notes.append(f"bits: {site.layer} is stored in 8 bits, {few}")
            coded = onnx_storage.table(self.graph, site.node, name, max(8, stored))
        if replay is not None:
            replay.replace(name, coded)

    def note_steps(self, site: Site, each: str) -> None:
        """A note where ``per: tensor`` is asked of what has more than one step whatever it is asked."""
        if site.format.whole and site.format.per == "tensor":
            self.notes.append(f"bits: {site.layer} has a step for each {each}, per: tensor has no effect on it")

    def recur(self, site: Site) -> list[Task]:
        """A recurrent layer: integer kernels where there are some, else what is to be stored narrow."""
        self.note_steps(site, "output of a gate")
        if site.format.integer:
            if onnx_recurrent.dynamic(self.graph, site.node, site.format.stored):
                return []
            self.notes.append(f"bits: {site.layer}: {onnx_recurrent.FLOAT}")
        tasks: list[Task] = []
        for name, tensors in zip(site.node.input[1:3], onnx_recurrent.read_by(self.graph, site.node), strict=True):
            if not site.format.whole:
                self.half(site, name)
                continue
            known = tuple(tensor for tensor in tensors if compensated(site) and tensor in self.seen)
            tasks.append((known, partial(self.gates, site, name, known)))
        return tasks

    def gates(self, site: Site, name: str, tensors: Sequence[str], replay: Replay | None) -> None:
        """Store a matrix of a recurrent layer, (directions, gates, inputs), which reads ``tensors``; nothing is known of it where there are none."""
        value = self.graph.array(name)
        flat = value.reshape(-1, value.shape[-1])
        own = replace(site, format=kept(site.format, flat.shape[1]))
        bits = own.format.stored
        block = flat.shape[1] if bits >= 8 else onnx_storage.block_of(flat.shape[1])
        x, damping = None, None
        if tensors and compensated(own):
            before, x = (
                np.concatenate([seen[one].rows_of(())[:, 0] for one in tensors]).astype(np.float64) for seen in (self.seen, self.now)
            )
            damping = shrinkage(x, np.concatenate([self.now[one].samples_of(()) for one in tensors]))
            flat = aligned(flat, x, before, damping)
        steps = scales_of(flat, bits, block, None if x is None else np.square(x).mean(0), signed=True)
        steps = steps if bits == 16 else onnx_storage.half_steps(steps)
        integer, steps = integer_of(flat, steps, own, x, True, damping)
        onnx_storage.whole(self.graph, name, site.node, integer, steps, bits, False, bits == 16)
        if replay is not None:
            replay.replace(name, integer * spread(steps, flat.shape[1]))


def by_tensor(sites: Sequence[Site]) -> dict[str, list[Site]]:
    """{tensor: the sites that read it}."""
    found: dict[str, list[Site]] = {}
    for site in sites:
        found.setdefault(site.data, []).append(site)
    return found


def in_stages(tensors: Sequence[str]) -> dict[str, list[str]]:
    """{tensor: those that are looked at together with it}: neighbours in the order of the graph, at most ``STAGES`` groups."""
    once = list(dict.fromkeys(tensors))
    size = -(-len(once) // STAGES)
    return {tensor: once[number // size * size :][:size] for number, tensor in enumerate(once)}


def wide_steps(form: Format) -> bool:
    """Whether the steps of a float layer's weights are kept in 32 bits: of 16-bit weights, and of those that were meant for integer kernels."""
    return form.stored == 16 or form.fell


def compensated(site: Site) -> bool:
    """Whether rounding looks at the layer's inputs: below eight bits unless told otherwise."""
    told = site.format.rounding
    return site.format.stored < 16 and (told in ("gptq", "adaround") or (told == "auto" and site.format.stored < 8))


def integer_of(
    matrix: np.ndarray, steps: np.ndarray, site: Site, rows: np.ndarray | None, free: bool, damping: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(integers (outputs, inputs), steps (outputs, blocks)) by the site's rounding. ``free``: steps may still move, as 16 bits hold them.
    ``damping``: of the Gram matrix of ``rows``, by :func:`shrinkage` where it is not told."""
    bits = site.format.stored
    if rows is None:
        return nearest(matrix, steps, bits), steps
    if site.format.rounding == "adaround":
        return adaround(matrix, steps, bits, rows), steps
    gram, damping = rows.T @ rows, shrinkage(rows) if damping is None else damping
    found = gptq(matrix, steps, bits, gram, damping)
    return refined(matrix, found, steps, bits, gram, damping, onnx_storage.half_steps) if free and bits < 8 else (found, steps)


__all__ = ["FELL", "META", "quantise"]
