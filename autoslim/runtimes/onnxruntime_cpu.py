"""ONNX Runtime on the CPU: one .onnx file with integer kernels and narrow storage as the bits say (the default runtime)."""

import contextlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from autoslim import formats, host, onnx_names, packing
from autoslim.engine import Draft
from autoslim.errors import ExportFailed
from autoslim.fusing import TOLERANCE, fused
from autoslim.inputs import Inputs, batch_size, call, close, rows, split, tensors
from autoslim.interfaces import BYTES_ALONE
from autoslim.onnx_bits import FELL, META, quantise
from autoslim.onnx_folding import drop_zeros
from autoslim.onnx_graph import Graph
from autoslim.onnx_layers import width
from autoslim.rewriting import Template
from autoslim.runtimes import _dynamic

#: samples that are calibrated on at once
PIECE = 16
#: formats with integer kernels
INTEGERS = tuple(filter(formats.is_integer, formats.NAMES))
OUTPUTS, BATCH = "autoslim.outputs", "autoslim.batch"
#: share of a profile's runs that count, the fastest
CALM = 0.8


class Member:
    """Exports with the dynamo exporter, quantises per layer, opens with pinned session options; see the module."""

    suffix = ".onnx"
    supports = {"bits": (*formats.NAMES, formats.DYNAMIC), "qat": tuple(formats.NAMES)}
    accelerates = {**BYTES_ALONE, "bits": (*INTEGERS, formats.DYNAMIC), "qat": INTEGERS}

    def __init__(self) -> None:
        self._template: tuple[tuple, Template] | None = None

    def export(
        self,
        draft: Draft,
        example: Inputs,
        calibration: Sequence[Inputs],
        path: Path,
        dynamic_shapes: Any = None,
        original: tuple[Path, nn.Module] | None = None,
    ) -> tuple[str, ...]:
        """Write the float graph to ``path``; returns notes. Raises ExportFailed if the model cannot be exported."""
        if original is not None and self._rewrite(draft, example, calibration, path, *original):
            return tuple(_dynamic.notes(_meta(self._template[1].proto).get(BATCH, ""), True))
        model, notes = export_float(draft.model, example, dynamic_shapes)
        save(model, path)
        return tuple(notes)

    def _rewrite(self, draft: Draft, example: Inputs, calibration: Sequence[Inputs], path: Path, source: Path, teacher: nn.Module) -> bool:
        """Whether the draft could be written into the original's graph, and computes there what it computes in PyTorch; nothing
        lies at ``path`` otherwise."""
        if "" in draft.replaced:
            return False
        trial = path.with_name(f"{path.name}.{os.getpid()}.rewritten")
        try:
            proto = self._template_of(source, teacher, example).write(fused(draft.model, example))
            if proto is None:
                return False
            save(proto, trial)
            session = self.open(trial, torch.get_num_threads())
            with torch.no_grad():
                if not all(agree(session.run(batch), call(draft.model, batch)) for batch in (example, *calibration[:1])):
                    return False
            trial.replace(path)
            return True
        except Exception:  # whatever the short cut stumbles over, the ordinary export is still to come and has its own reasons
            return False
        finally:
            trial.unlink(missing_ok=True)

    def _template_of(self, source: Path, teacher: nn.Module, example: Inputs) -> Template:
        """The template of a file as it is now; the latest is kept."""
        facts = source.stat()
        known = source, facts.st_mtime_ns, facts.st_size, facts.st_ino, teacher
        if self._template is None or self._template[0] != known:
            self._template = known, Template(onnx.load(str(source)), fused(teacher, example))
        return self._template[1]

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        """The shipped file: the float graph with the draft's bits."""
        model, notes = onnx.load(str(base)), []
        shared = bool(draft.twins()) or any(layer.calls > 1 for layer in draft.structure.layers.values())
        if shared:
            Graph(model).merge()
        if draft.bits:
            names = [node.name for node in model.graph.input]
            model, notes = quantise(model, draft, [packing.numpy_feed(names, inputs) for inputs in self._fit(model, calibration)])
        if shared:
            Graph(model).merge()
        forget(model)
        save(model, path)
        return tuple(notes)

    def profile(self, path: Path, inputs: Inputs, threads: int, runs: int = 30) -> list[dict[str, Any]]:
        """[{"layer", "op", "ms"}] per kernel of the optimised graph, slowest first, by ONNX Runtime's own profiler; the mean without the slowest runs, the
        first of which do what no later one does."""
        owners = onnx_names.owners(onnx.load(str(path)))
        with tempfile.TemporaryDirectory() as folder:
            options = session_options(threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            feed = packing.numpy_feed([node.name for node in session.get_inputs()], inputs)
            for _ in range(runs):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        tried: dict[tuple[str, str], list[int]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                node = event["name"].removesuffix("_kernel_time")
                if onnx_names.INNER not in node:  # its time is part of the Scan's
                    tried.setdefault((node, event["args"]["op_name"]), []).append(event["dur"])
        spent: dict[tuple[str, str], float] = {}
        for (node, op), durations in tried.items():
            calm = sorted(durations)[: max(1, round(CALM * len(durations)))]
            key = onnx_names.place(owners, node), op
            spent[key] = spent.get(key, 0.0) + sum(calm) / len(calm) * len(durations) / runs / 1000
        return [{"layer": layer, "op": op, "ms": ms} for (layer, op), ms in sorted(spent.items(), key=lambda item: -item[1])]

    def bits(self, path: Path) -> dict[str, Any]:
        """{layer: bits} that were asked of a file."""
        return json.loads(_meta(onnx.load(str(path))).get(META, "{}"))

    def fell(self, path: Path) -> dict[str, float]:
        """{layer: relative error of its outputs as integers} of the layers that compute in float for that reason."""
        return json.loads(_meta(onnx.load(str(path))).get(FELL, "{}"))

    def widths(self, path: Path) -> dict[str, tuple[int, int]]:
        """{layer: (output channels, input channels)} of a file's convolutions and products with weights; grouped ones are left out."""
        graph = Graph(onnx.load(str(path)))
        owners = onnx_names.owners(graph.model)
        return {owners[node.name]: pair for node in graph.model.graph.node if (pair := width(graph, node)) is not None}

    @staticmethod
    def _fit(model: onnx.ModelProto, calibration: Sequence[Inputs]) -> list[Inputs]:
        """Calibration inputs in small batches, or in the batch size that the graph takes."""
        fixed = _meta(model).get(BATCH, "")
        if not fixed:
            return [rows(inputs, start, start + PIECE) for inputs in calibration for start in range(0, batch_size(inputs), PIECE)]
        size = int(fixed)
        return [rows(inputs, start, start + size) for inputs in calibration for start in range(0, batch_size(inputs) - size + 1, size)]

    def open(self, path: Path, threads: int) -> "OnnxSession":
        return OnnxSession(path, threads)


class OnnxSession:
    """One opened file."""

    def __init__(self, path: Path, threads: int) -> None:
        options = session_options(threads)
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no public base class
            raise ExportFailed(f"onnxruntime_cpu: {path} does not open ({' '.join(str(error).split())[:200]})") from error
        meta = self._session.get_modelmeta().custom_metadata_map
        self._outputs, self._batch = meta.get(OUTPUTS), meta.get(BATCH, "")
        self.names = [node.name for node in self._session.get_inputs()]

    def run(self, inputs: Inputs) -> Any:
        """Outputs as forward() gives them, as torch tensors."""
        if self._batch:
            return packing.in_batches(self._once, inputs, int(self._batch))
        return self._once(inputs)

    def _once(self, inputs: Inputs) -> Any:
        values = [torch.from_numpy(np.asarray(v)) for v in self._session.run(None, packing.numpy_feed(self.names, inputs))]
        return packing.restore_outputs(self._outputs, values) if self._outputs else values[0] if len(values) == 1 else tuple(values)

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        """A function that runs the file on these inputs, converted beforehand, as it is timed."""
        feed = packing.numpy_feed(self.names, inputs)
        session = self._session
        return lambda: session.run(None, feed)

    def example(self) -> dict[str, Any]:
        """Inputs of the file's own shapes (free axes 1), for timing a file that comes without a task: normal noise for
        floats, zeros for integers, which are valid indices whatever they index."""
        kinds = {
            "tensor(float)": torch.float32,
            "tensor(double)": torch.float64,
            "tensor(int64)": torch.int64,
            "tensor(int32)": torch.int32,
            "tensor(bool)": torch.bool,
        }
        generator = torch.Generator().manual_seed(0)
        feed = {}
        for node in self._session.get_inputs():
            shape = [axis if isinstance(axis, int) else 1 for axis in node.shape]
            kind = kinds.get(node.type, torch.float32)
            feed[node.name] = (
                torch.randn(shape, generator=generator, dtype=kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)
            )
        return feed


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """The options that every session is opened with: ``threads`` threads on cores of their own, one operator at a time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.add_session_config_entry("session.force_spinning_stop", "1")  # an idle session must not eat the other's core
    options.log_severity_level = 3
    places = host.cores()
    if 1 < threads <= len(places):  # the calling thread is the first; the pool's threads get a core each
        options.add_session_config_entry("session.intra_op_thread_affinities", ";".join(str(core + 1) for core in places[1:threads]))
    return options


def strip(model: onnx.ModelProto) -> None:
    """Take out what the exporter noted for debugging, stack traces with paths of this machine among it; the modules' names
    stay, since bits and profiles are told by them."""
    for entry in (
        model.graph,
        *model.graph.node,
        *model.graph.value_info,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        kept = [(prop.key, prop.value) for prop in entry.metadata_props if prop.key == onnx_names.SCOPES]
        del entry.metadata_props[:]
        for key, value in kept:
            entry.metadata_props.add(key=key, value=value)


def forget(model: onnx.ModelProto) -> None:
    """Take the modules' names off what widths alone need (pairs, widening), a tenth of a small file: whose it is, the weighted nodes and the
    weights' names tell. What reads the graph's inputs keeps them."""
    inputs = {node.name for node in model.graph.input}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Cast") and not inputs & set(node.input):
            del node.metadata_props[:]


def save(model: onnx.ModelProto, path: Path) -> None:
    """One file, weights inside, whole or not at all."""
    strip(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    onnx.save_model(model, str(partial), save_as_external_data=False)
    partial.replace(path)


def agree(left: Any, right: Any) -> bool:
    """Whether each output by itself is the same, so that a large one hides no error of a small one; integers exactly."""
    pairs = list(zip(tensors(left), tensors(right), strict=True))
    return all(close(a, b, TOLERANCE) and (a.is_floating_point() or torch.equal(a, b)) for a, b in pairs)


def export_float(model: nn.Module, example: Inputs, dynamic_shapes: Any = None) -> tuple[onnx.ModelProto, list[str]]:
    """(float graph with its weights inside, notes). The batch axis is free where the model allows it."""
    with torch.no_grad():
        outputs = packing.describe_outputs(call(model, example))
    model = fused(model, example)
    trouble: Exception | None = None
    for inputs, shapes, told in _dynamic.attempts(example, dynamic_shapes):
        try:
            proto = _dynamo(model, inputs, shapes)
        except Exception as error:  # the exporter raises whatever the traced code raises
            trouble = error
            continue
        fixed = _fixed_batch(proto)
        if fixed and int(fixed) != batch_size(example):
            continue  # the axis was meant to be free and is not
        drop_zeros(proto)
        _annotate(proto, outputs, fixed)
        return proto, _dynamic.notes(fixed, told or dynamic_shapes is None)
    raise ExportFailed(f"onnxruntime_cpu: export failed ({cause_of(trouble)})") from trouble


def cause_of(trouble: BaseException) -> str:
    """The first error of a chain, in a line: the exporter wraps it in advice."""
    while trouble.__cause__ is not None:
        trouble = trouble.__cause__
    return f"{type(trouble).__name__}: {' '.join(str(trouble).split())[:200]}"


def _fixed_batch(proto: onnx.ModelProto) -> str:
    """The batch size that a graph takes, "" where it takes any."""
    axes = proto.graph.input[0].type.tensor_type.shape.dim if proto.graph.input else ()
    return str(axes[0].dim_value) if axes and axes[0].HasField("dim_value") else ""


def _dynamo(model: nn.Module, inputs: Inputs, shapes: Any) -> onnx.ModelProto:
    args, kwargs = split(inputs)
    quiet = {name: logging.getLogger(name).level for name in ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript")}
    for name in quiet:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(model, args, kwargs=kwargs or None, dynamo=True, dynamic_shapes=shapes, verbose=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            program.save(str(path), external_data=False)
            return onnx.load(str(path))
    finally:
        for name, level in quiet.items():
            logging.getLogger(name).setLevel(level)


def _annotate(proto: onnx.ModelProto, outputs: str, fixed: str) -> None:
    onnx.helper.set_model_props(proto, {OUTPUTS: outputs, BATCH: fixed})


def _meta(proto: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in proto.metadata_props}
