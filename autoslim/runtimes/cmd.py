"""Any device that a command reaches (--target 'cmd:./bench.sh {file}'): ONNX files; times, energy and memory are what it prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim import plugins
from autoslim.command import Command
from autoslim.device import DeviceContest
from autoslim.engine import Draft
from autoslim.inputs import Inputs
from autoslim.interfaces import Session


class Member:
    """Files are written, and scored for the metric, by onnxruntime_cpu on this machine; only what the command tells counts as time. What the
    device accelerates is not known here, so that nothing is left out for that."""

    accelerates: Mapping[str, tuple] = {}

    def __init__(self, argument: str = "") -> None:
        self._command, self._files = Command(argument), plugins.load("runtimes", "onnxruntime_cpu")
        self.suffix, self.supports = self._files.suffix, self._files.supports

    def export(self, draft: Draft, example: Inputs, calibration: Sequence[Inputs], path: Path, **told: Any) -> tuple[str, ...]:
        return self._files.export(draft, example, calibration, path, **told)

    def finish(self, draft: Draft, base: Path, calibration: Sequence[Inputs], path: Path) -> tuple[str, ...]:
        return self._files.finish(draft, base, calibration, path)

    def open(self, path: Path, threads: int) -> Session:
        return self._files.open(path, threads)

    def contest(self, threads: int, inputs: Any) -> DeviceContest:
        """How files are compared on the device."""
        return DeviceContest(self._command, threads, inputs)
