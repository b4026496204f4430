"""OpenVINO on the CPU (extra openvino): the same .onnx files with QDQ pairs, which OpenVINO turns into its own integer kernels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch

from autoslim import onnx_names, packing, plugins
from autoslim.engine import Draft
from autoslim.errors import ExportFailed, Untreatable
from autoslim.formats import DYNAMIC, parse
from autoslim.inputs import Inputs
from autoslim.interfaces import BYTES_ALONE
from autoslim.kernels import inside

#: where onnxruntime_cpu, which writes the files, keeps the form of outputs and a fixed batch; and this member what float kernels compute in
OUTPUTS, BATCH, PRECISION = "autoslim.outputs", "autoslim.batch", "autoslim.precision"
WRITER = "onnxruntime_cpu"
BRAIN = "bf16"
#: what a note says of linear layers with ``ranges: dynamic``
LIVE = "bits: {}: inputs and weights are rounded to integers, and openvino_cpu computes in float: it has no such kernels with ranges found at every run"


def has_brain() -> bool:
    """Whether the processor computes with bfloat16; OpenVINO says so of its CPU."""
    return BRAIN.upper() in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class Member:
    """Files of onnxruntime_cpu without the operators that only ONNX Runtime has: bits 8 and 32 and, where the processor has it, bf16. Layers that
    find their ranges at every run are small in the file and compute in float.

    Float kernels compute in 32 bits, unless layers have bf16: OpenVINO knows one precision for all float kernels of a file, so that
    those of layers with 32 bits then compute in bfloat16 too, which a note says. Asked for nothing it would take bfloat16 by itself.
    """

    suffix = ".onnx"
    accelerates = {**BYTES_ALONE, "bits": (8, *([BRAIN] if has_brain() else [])), "qat": (8,)}
    supports = {"bits": (32, *accelerates["bits"], DYNAMIC)}

    def __init__(self) -> None:
        self._writer = plugins.load("runtimes", WRITER)

    def export(self, draft: Draft, example: Inputs, calibration: Sequence[Inputs], path: Path, **told: Any) -> tuple[str, ...]:
        """As onnxruntime_cpu. Raises ExportFailed if the model cannot be exported."""
        try:
            return self._writer.export(draft, example, calibration, path, **told)
        except ExportFailed as error:
            raise ExportFailed(str(error).replace(WRITER, "openvino_cpu")) from error

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        """As onnxruntime_cpu. Raises Untreatable for a file with operators that OpenVINO does not know, which leaves nothing behind."""
        notes = self._writer.finish(draft, base, calibration, path)
        nodes = onnx.load(str(path)).graph.node
        foreign = sorted({node.op_type for node in nodes if node.domain == "com.microsoft"})
        if foreign:
            path.unlink()
            raise Untreatable(f"openvino_cpu: has no {', '.join(foreign)}; allowed bits of these layers: 32")
        live = dict.fromkeys(onnx_names.layer(node) for node in nodes if node.op_type == "MatMulInteger")
        notes = (*notes, LIVE.format(", ".join(live))) if live else notes
        brain = sorted(layer for layer, value in draft.bits.items() if parse(value).name == BRAIN)
        return (*notes, *mark(path, draft, brain)) if brain else notes

    def open(self, path: Path, threads: int) -> "OpenvinoSession":
        return OpenvinoSession(path, threads)


def mark(path: Path, draft: Draft, brain: Sequence[str]) -> list[str]:
    """Let the float kernels of a file compute in bfloat16; a note where that are more than the layers ``brain``."""
    model = onnx.load(str(path))
    model.metadata_props.add(key=PRECISION, value=BRAIN)
    onnx.save(model, str(path))
    others = [name for name, layer in draft.structure.layers.items() if layer.params and not any(inside(name, one) for one in draft.bits)]
    return [f"bits: {', '.join(others[:8])} compute in {BRAIN} too: openvino_cpu has one precision for all float layers"] if others else []


class OpenvinoSession:
    """One compiled file: one stream, ``threads`` threads."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        try:
            meta = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
            core = openvino.Core()
            settings["INFERENCE_PRECISION_HINT"] = meta.get(PRECISION, "f32")
            self._compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        except Exception as error:  # OpenVINO raises RuntimeError for everything, onnx its own
            raise ExportFailed(f"openvino_cpu: {path} does not open ({' '.join(str(error).split())[:200]})") from error
        self._request = self._compiled.create_infer_request()
        self._outputs, self._batch = meta.get(OUTPUTS), meta.get(BATCH, "")
        self.names = [port.get_any_name() for port in self._compiled.inputs]

    def run(self, inputs: Inputs) -> Any:
        """Outputs as forward() gives them, as torch tensors."""
        if self._batch:
            return packing.in_batches(self._once, inputs, int(self._batch))
        return self._once(inputs)

    def _once(self, inputs: Inputs) -> Any:
        found = self._request.infer(packing.numpy_feed(self.names, inputs))
        values = [torch.from_numpy(np.array(found[port])) for port in self._compiled.outputs]
        return packing.restore_outputs(self._outputs, values) if self._outputs else values[0] if len(values) == 1 else tuple(values)

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        """A function that runs the file on these inputs, converted beforehand, as it is timed."""
        feed, request, ports = packing.numpy_feed(self.names, inputs), self._request, self._compiled.outputs

        def run() -> Any:
            found = request.infer(feed, share_inputs=True, share_outputs=True)
            return [found[port] for port in ports]

        return run

    def example(self) -> dict[str, Any]:
        """Inputs of the file's own shapes, for timing a file that comes without a task."""
        return plugins.load("runtimes", WRITER).open(self._path, 1).example()
