"""What layers' kernels take, in files of several widths, as floats and as integers.

Kernels work on blocks of channels, so that their times go in steps which no count of multiply-accumulates tells: 24 of 32 channels may take
as long as 32, and 12 as long as 16. All files are profiled in turn, several times, so that a machine that slows down slows all of them.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoslim.engine import Draft
from autoslim.sensitivity import compressed

if TYPE_CHECKING:
    from autoslim.evaluator import Evaluator

#: share of a profile's time that must belong to layers, else their times are told by MACs
NAMED = 0.2
#: seconds after which no narrower file is made, and profiles of each file, of which the least time of a layer counts
SECONDS, ROUNDS = 20.0, 3


def times(evaluator: "Evaluator") -> dict[str, Any]:
    """{"float", "integer": {layer: ms}, "latency": ms, "ladder": {"float", "integer": [{layer: ms}]}}: each layer's kernels in the untouched file
    and in one with all layers integer; and, per position of the choices of channels from the second, in files in which all groups stand
    there. By MACs where the runtime has no profiler, or its profile does not know the layers."""
    structure, latency = evaluator.prepared.structure, evaluator.prepared.untouched.get("latency_ms")
    known = profile(evaluator, evaluator.untouched_file()) if hasattr(evaluator.runtime, "profile") else {}
    if sum(ms for name, ms in known.items() if name) < NAMED * sum(known.values()) or not known:
        whole = max(structure.macs, 1)
        told = {name: latency * layer.macs / whole for name, layer in structure.layers.items()}
        return {"float": told, "integer": {}, "latency": latency}
    found = profiled(evaluator, made(evaluator))
    levels = range(1, 1 + max(level for _, level in found))
    ladder = {kind: [found[kind, level] for level in levels if (kind, level) in found] for kind in ("float", "integer")}
    return {"float": found["float", 0], "integer": found.get(("integer", 0), {}), "latency": latency, "ladder": ladder}


def made(evaluator: "Evaluator") -> dict[tuple[str, int], Path]:
    """{("float" or "integer", position of the choices of channels): file}; integers of the layers that the space lets be eight bits wide."""
    space, begun = evaluator.prepared.space, time.monotonic()
    bits = {step.unit: 8 for step in space.decode(space.uniform(bits=10_000)).steps if step.technique == "bits" and step.value == 8}
    whole = Draft(evaluator.model, evaluator.prepared.structure, evaluator.example)
    found = {("float", 0): evaluator.untouched_file(), **integers(evaluator, whole, bits, 0, evaluator.untouched_file())}
    calibration = evaluator.materials.lessons()[2]
    for level in range(1, space.depth_of("channels")):
        if time.monotonic() - begun > SECONDS:
            break
        draft = compressed(evaluator, space.decode(space.uniform(channels=level)), calibration)
        found["float", level] = path = place(evaluator, "float", level)
        evaluator.export(draft, calibration, path)
        found |= integers(evaluator, draft, bits, level, path)
    return found


def integers(evaluator: "Evaluator", draft: Draft, bits: Mapping[str, int], level: int, base: Path) -> dict[tuple[str, int], Path]:
    """The file of a draft with integers, from its float form ``base``; none without ``bits``."""
    if not bits:
        return {}
    path = place(evaluator, "integer", level)
    evaluator.runtime.finish(replace(draft, bits=dict(bits)), base, evaluator.materials.lessons()[2], path)
    return {("integer", level): path}


def place(evaluator: "Evaluator", kind: str, level: int) -> Path:
    return evaluator.out / "tables" / f"{kind}-{level}{evaluator.runtime.suffix}"


def profiled(evaluator: "Evaluator", files: Mapping[tuple[str, int], Path]) -> dict[tuple[str, int], dict[str, float]]:
    """{key: {layer: ms}} of all files, in turn; those but the untouched one are removed."""
    found: dict[tuple[str, int], dict[str, float]] = {}
    for _ in range(ROUNDS):
        for key, path in files.items():
            told = profile(evaluator, path)
            found[key] = {name: min(ms, found.get(key, told).get(name, ms)) for name, ms in told.items()}
    for path in files.values():
        if path != evaluator.untouched_file():
            path.unlink(missing_ok=True)
    return found


def profile(evaluator: "Evaluator", path: Path) -> dict[str, float]:
    """{layer or "": ms} of a file's kernels, timed alone on this machine."""
    with evaluator.machine.alone():
        rows = evaluator.runtime.profile(path, evaluator.task.latency_input, evaluator.job.threads)
    found: dict[str, float] = {}
    for row in rows:
        name = row["layer"] if row["layer"] in evaluator.prepared.structure.layers else ""
        found[name] = found.get(name, 0.0) + row["ms"]
    return found
