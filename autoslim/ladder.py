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
from autoslim.formats import is_integer, label
from autoslim.sensitivity import compressed
from autoslim.space import SearchSpace

if TYPE_CHECKING:
    from autoslim.evaluator import Evaluator

#: share of a profile's time that must belong to layers, else their times are told by MACs
NAMED = 0.2
#: seconds after which no narrower file is made, and profiles of each file, of which the least time of a layer counts
SECONDS, ROUNDS = 20.0, 3
#: label of plain eight bits
PLAIN = label(8)


def times(evaluator: "Evaluator") -> dict[str, Any]:
    """{"float", "integer": {layer: ms}, "formats": {label: {layer: ms}}, "latency": ms, "ladder": {"float", "integer": [{layer: ms}]}}: each layer's
    kernels in the untouched file, in one with all layers integer, and in one for each other format with integer kernels; and, per position of
    the choices of channels from the second, in files in which all groups stand there. By MACs where the runtime has no profiler, or its profile does not know the layers."""
    structure, latency = evaluator.prepared.structure, evaluator.prepared.untouched.get("latency_ms")
    known = profile(evaluator, evaluator.untouched_file()) if hasattr(evaluator.runtime, "profile") else {}
    if sum(ms for name, ms in known.items() if name) < NAMED * sum(known.values()) or not known:
        whole = max(structure.macs, 1)
        told = {name: latency * layer.macs / whole for name, layer in structure.layers.items()}
        return {"float": told, "integer": {}, "latency": latency}
    found = profiled(evaluator, made(evaluator))
    levels = range(1, 1 + max(level for _, level in found))
    ladder = {kind: [found[kind, level] for level in levels if (kind, level) in found] for kind in ("float", "integer")}
    others = {kind: ms for (kind, _), ms in found.items() if kind not in ladder}
    return {"float": found["float", 0], "integer": found.get(("integer", 0), {}), "formats": others, "latency": latency, "ladder": ladder}


def made(evaluator: "Evaluator") -> dict[tuple[str, int], Path]:
    """{("float", "integer" or the label of a format, position of the choices of channels): file}; integers of the layers that the space lets have them,
    in eight bits where it offers them plainly, else in the first format that it does."""
    space, begun = evaluator.prepared.space, time.monotonic()
    formats = integer_formats(space)
    bits = formats.pop(PLAIN, None) or (formats.pop(next(iter(formats))) if formats else {})
    whole = Draft(evaluator.model, evaluator.prepared.structure, evaluator.example)
    found = {("float", 0): evaluator.untouched_file(), **integers(evaluator, whole, bits, 0, evaluator.untouched_file())}
    for kind, other in formats.items():
        found |= integers(evaluator, whole, other, 0, evaluator.untouched_file(), kind)
    calibration = evaluator.materials.lessons()[2]
    for level in range(1, space.depth_of("channels")):
        if time.monotonic() - begun > SECONDS:
            break
        draft = compressed(evaluator, space.decode(space.uniform(channels=level)), calibration)
        found["float", level] = path = place(evaluator, "float", level)
        evaluator.export(draft, calibration, path)
        found |= integers(evaluator, draft, bits, level, path)
    return found


def integer_formats(space: SearchSpace) -> dict[str, dict[str, Any]]:
    """{label of a format with integer kernels: {layer: the format's value}} of all that the space offers."""
    found: dict[str, dict[str, Any]] = {}
    for domain in space.domains:
        for unit, value in (pair for effects in domain.effects if domain.technique == "bits" for pair in effects):
            if is_integer(value):
                found.setdefault(label(value), {})[unit] = value
    return found


def integers(
    evaluator: "Evaluator", draft: Draft, bits: Mapping[str, Any], level: int, base: Path, kind: str = "integer"
) -> dict[tuple[str, int], Path]:
    """The file of a draft with integers, from its float form ``base``; none without ``bits``."""
    if not bits:
        return {}
    path = place(evaluator, kind, level)
    evaluator.runtime.finish(replace(draft, bits=dict(bits)), base, evaluator.materials.lessons()[2], path)
    return {(kind, level): path}


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
