"""Coverage and time per layer of a network as it is: what `autoslim profile` shows."""

from pathlib import Path
from typing import Any

from autoslim import coverage, offers, plugins, timing
from autoslim import task as tasks
from autoslim.engine import Draft
from autoslim.machine import Machine
from autoslim.spec import StudySpec


def profile(spec: StudySpec, folder: Path) -> dict[str, Any]:
    """{"coverage", "family", "latency_ms", "layers": [{layer, op, ms, share}], ...}; ``layers`` is empty for a runtime
    that has no profiler."""
    task = tasks.load(spec.task, spec.task_args, spec.max_samples, spec.part)
    model, example = task.model(), task.example_input()
    runtime, threads = plugins.load("runtimes", spec.runtime), spec.resolved_threads()
    structure = coverage.analyse(model, example)
    techniques = {name: plugins.load("techniques", name) for name in plugins.names("techniques")}
    path = folder / f"model{runtime.suffix}"
    shapes = {} if task.dynamic_shapes is None else {"dynamic_shapes": task.dynamic_shapes}
    runtime.export(Draft(model, structure, example), example, [], path, **shapes)
    run = runtime.open(path, threads).bind(task.latency_input)
    machine = Machine()
    with machine.alone():
        timing.warm_up(run)
        found = timing.median_interval([timing.clock(run) for _ in range(100)])
        rows = runtime.profile(path, task.latency_input, threads) if hasattr(runtime, "profile") else []
    total = sum(row["ms"] for row in rows) or 1.0
    return {
        "coverage": coverage.report(structure, techniques),
        "family": offers.family(structure),
        "runtime": spec.runtime,
        "threads": threads,
        "latency_ms": found.value,
        "layers": [row | {"share": row["ms"] / total} for row in rows],
    }
