"""OpenVINO on the CPU (extra openvino): the same .onnx files with QDQ pairs, which OpenVINO turns into its own integer kernels."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import torch

from autoslim import packing, plugins
from autoslim.engine import Draft
from autoslim.errors import ExportFailed, Untreatable
from autoslim.inputs import Inputs

#: where onnxruntime_cpu, which writes the files, keeps the form of outputs and a fixed batch
OUTPUTS, BATCH = "autoslim.outputs", "autoslim.batch"
WRITER = "onnxruntime_cpu"


class Member:
    """Files of onnxruntime_cpu without the operators that only ONNX Runtime has: bits 8 and 32. Float kernels compute in 32 bits: where
    the processor has bfloat16, OpenVINO would take it unasked and give other outputs than the model."""

    suffix = ".onnx"
    supports = {"bits": (32, 8)}

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
        foreign = sorted({node.op_type for node in onnx.load(str(path)).graph.node if node.domain == "com.microsoft"})
        if foreign:
            path.unlink()
            raise Untreatable(f"openvino_cpu: has no {', '.join(foreign)}; allowed bits of these layers: 32")
        return notes

    def open(self, path: Path, threads: int) -> "OpenvinoSession":
        return OpenvinoSession(path, threads)


class OpenvinoSession:
    """One compiled file: one stream, ``threads`` threads."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
            meta = {entry.key: entry.value for entry in onnx.load(str(path)).metadata_props}
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
