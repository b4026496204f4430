"""Facts about the machine that a number was measured on. Standard library only."""

import functools
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

ISAS = ("sse4_2", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "sve")
PACKAGES = ("autoslim", "torch", "onnx", "onnxruntime", "optuna", "torch-pruning", "tensorly", "numpy")
#: packages of extras that numbers depend on where they are used
OPTIONAL = ("executorch", "openvino")


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
    """The processor's name, as the system tells it."""
    for line in _cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def processors() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


@functools.cache
def stolen() -> float:
    """Share of this machine's busy processor time since it started that its hypervisor gave to other guests ("steal"), 0 to 1; 0
    where the system does not say. Read once, so that one process answers one question in one way."""
    try:
        line = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:
        return 0.0
    return share_stolen(line)


def share_stolen(line: str) -> float:
    """The share in the first line of /proc/stat (proc(5): user nice system idle iowait irq softirq steal ..., in ticks)."""
    user, nice, system, _idle, _wait, irq, soft, steal = [*(int(x) for x in line.split()[1:9]), *[0] * 8][:8]
    return steal / max(1, user + nice + system + irq + soft + steal)


@functools.cache
def virtual() -> bool:
    """Whether this is a guest of a hypervisor: the processor says so (CPUID leaf 1, ECX bit 31, "hypervisor" in /proc/cpuinfo), or the
    system counts time that was given to other guests."""
    flags = next((line.split(":", 1)[1].split() for line in _cpuinfo().splitlines() if line.startswith("flags")), [])
    return "hypervisor" in flags or stolen() > 0


def own_cores() -> int:
    """How many threads are timed by default: the physical cores that this process may use. What a hypervisor shows a guest as cores
    may be two threads of one, or lent to others meanwhile, so that there one counts. Measured on such a machine: the same file on two
    threads took 1.15 to 1.84 ms from one process to the next, and its ratio to another file differed by 60 %; in an hour without stolen
    time 2 of 19 ratios were within 5 % of a second measurement; on one thread times were within 6 % and ratios within 4 %."""
    return 1 if virtual() else physical_cores()


def threads_note(threads: int, asked: bool) -> str:
    """Why fewer threads are timed than there are cores, or that more are than give steady times; empty where there is nothing to say."""
    if physical_cores() == 1 or not virtual() or (asked and threads == 1):
        return ""
    why = "this is a virtual machine, whose cores may be threads of one core or lent to others"
    if threads > 1:
        return f"{why}: times on {threads} threads may not repeat; --threads 1 is steadier"
    return f"times are taken on 1 thread of {physical_cores()}: {why}; --threads {physical_cores()} takes them on all"


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
        "virtual": virtual(),
        "stolen": round(stolen(), 3),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES} | {name: found for name in OPTIONAL if (found := version(name))},
    }


def extras() -> dict[str, list[str]]:
    """{extra: its packages that are not installed}, of all extras of the installed package for users, from its own metadata."""
    found: dict[str, list[str]] = {}
    try:
        told = importlib.metadata.requires("autoslim") or []
    except importlib.metadata.PackageNotFoundError:
        return found
    for text in told:
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", text)
        if extra is None or extra.group(1) == "test":
            continue
        name = re.match(r"[\w.-]+", text).group(0)
        absent = found.setdefault(extra.group(1), [])
        if version(name) is None:
            absent.append(name)
    return found


def counted_threads(count: int) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} thread" + ("s" if count != 1 else "")
