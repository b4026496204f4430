"""Coverage and time per layer of a network as it is: what `autoslim profile` shows; and its option database as a table."""

import csv
from pathlib import Path
from typing import Any

from autoslim import coverage, offers, options, plugins
from autoslim import task as tasks
from autoslim.device import contest_of
from autoslim.engine import Draft
from autoslim.errors import Untreatable, UserError
from autoslim.inputs import Inputs, batch_size, rows
from autoslim.machine import Machine
from autoslim.places import writable_file
from autoslim.spec import StudySpec

#: seconds of timing, and samples that the option database is calibrated on
SECONDS, SAMPLES = 0.5, 256


def profile(spec: StudySpec, folder: Path) -> dict[str, Any]:
    """{"coverage", "family", "latency_ms", "layers": [{layer, op, ms, share}], "failure", ...}; ``layers`` is empty for a runtime
    that has no profiler. ``failure`` says why no file could be made or timed, and then there are no times; else it is empty."""
    task = tasks.load(spec.task, spec.task_args, spec.max_samples, spec.part)
    model, example = task.model(), task.example_input()
    task.refuse_unfit(model, example)
    runtime, threads = plugins.load("runtimes", spec.runtime), spec.resolved_threads()
    structure = coverage.analyse(model, example)
    techniques = {name: plugins.load("techniques", name) for name in plugins.names("techniques")}
    told = {
        "coverage": coverage.report(structure, techniques),
        "family": offers.family(structure),
        "runtime": spec.runtime,
        "threads": threads,
    }
    try:
        return {**told, **times(task, Draft(model, structure, example), runtime, threads, folder), "failure": ""}
    except Untreatable as error:
        return {**told, "latency_ms": None, "layers": [], "failure": " ".join(str(error).split())}


def times(task: tasks.Task, draft: Draft, runtime: Any, threads: int, folder: Path) -> dict[str, Any]:
    """What the untouched file takes, as a whole and by layer. Raises Untreatable where none can be made."""
    path = folder / f"model{runtime.suffix}"
    shapes = {} if task.dynamic_shapes is None else {"dynamic_shapes": task.dynamic_shapes}
    runtime.export(draft, draft.example, [], path, **shapes)
    contest = contest_of(runtime, threads, task.latency_inputs())
    machine = Machine()
    with machine.alone():
        found = contest.values(contest.round(path, path, SECONDS))
        kernels = runtime.profile(path, task.latency_input, threads) if hasattr(runtime, "profile") else []
    total = sum(row["ms"] for row in kernels) or 1.0
    return {
        "latency_ms": found["latency_ms"].value,
        **{name: found[name].value for name in ("energy_mj", "peak_memory_bytes") if name in found},
        "layers": [row | {"share": row["ms"] / total} for row in kernels],
    }


def write_options(spec: StudySpec, path: Path) -> tuple[int, list[str]]:
    """Write the option database of the task's network as CSV, a row per option; returns the number of rows and the layers with weights that
    have none. Raises UserError where the file cannot be written, before anything is computed."""
    writable_file(path, "--options")
    task = tasks.load(spec.task, spec.task_args, spec.max_samples, spec.part)
    model = task.model()
    found = options.database(model, samples(task))
    told = [row for one in found.values() for row in one.rows()]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["layer", "bits", "zeros", "rank", "error", "weights", "bytes"])
            writer.writeheader()
            writer.writerows(told)
    except OSError as error:
        raise UserError(f"--options: {path} cannot be written ({error.strerror})") from None
    there = {name.partition(".weight_")[0] for name in found}
    return len(told), [name for name in coverage.analyse(model, task.example_input()).layers if name not in there]


def samples(task: tasks.Task) -> list[Inputs]:
    """The first inputs of ``train``, or of ``val`` without one."""
    found: list[Inputs] = []
    for inputs, _ in task.batches("train" if task.has("train") else "val"):
        found.append(rows(inputs, 0, SAMPLES - sum(map(batch_size, found))))
        if sum(map(batch_size, found)) >= SAMPLES:
            break
    return found
