"""Facts about the machine that a number was measured on. Standard library only."""

import functools
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

ISAS = ("sse4_2", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
PACKAGES = ("autoslim", "torch", "onnx", "onnxruntime", "optuna", "torch-pruning", "tensorly", "numpy")


@functools.cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


def instruction_sets() -> tuple[str, ...]:
    """The instruction sets, of those that matter to kernels, that this processor has; empty where the system does not say."""
    for line in _cpuinfo().splitlines():
        if line.startswith(("flags", "Features")):
            have = set(line.split(":", 1)[1].split())
            return tuple(name for name in ISAS if name in have)
    return ()


def processor() -> str:
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cores() -> tuple[int, ...]:
    """One logical processor per physical core that this process may use (its affinity mask), in order; never empty. Read
    once, since a pinned thread would see only its own core."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    found: dict[tuple[str, str], int] = {}
    for cpu in sorted(allowed):
        base = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            place = (base / "physical_package_id").read_text(), (base / "core_id").read_text()
        except OSError:
            place = (str(cpu), "")
        found.setdefault(place, cpu)
    return tuple(sorted(found.values())) or (0,)


def physical_cores() -> int:
    """Physical cores that this process may use, at least 1."""
    return len(cores())


def version(package: str) -> str | None:
    """Installed version of a distribution, None if it is absent; the package is not imported."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def facts() -> dict[str, Any]:
    """Everything a reader needs to judge or repeat a timing."""
    return {
        "processor": processor(),
        "instruction_sets": list(instruction_sets()),
        "physical_cores": physical_cores(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }
