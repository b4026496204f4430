"""What every single choice does, measured once: loss after its neighbours adapted, and each layer's work, bytes and time.

One item is one domain at one choice, all else untouched; items are independent, so that workers share them. The loss is the gap of
outputs on held-out inputs, with the layers that lost inputs solved anew, as a candidate's would be; for bit-widths it is that of the shipped
integer file. Choices between two measured ones are interpolated, since neighbours are alike.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from autoslim import resolving
from autoslim.effects import hopeless
from autoslim.engine import Draft, compress
from autoslim.formats import is_integer
from autoslim.layers import trace
from autoslim.recipe import Recipe, Step
from autoslim.recovery import gap, judge

if TYPE_CHECKING:
    from autoslim.evaluator import Evaluator

#: batches that a loss is judged on, and that integer ranges are taken from: enough to rank choices
BATCHES, CALIBRATION = 4, 2
#: share of a profile's time that must belong to layers, else their times are told by MACs
NAMED = 0.2


def measure(evaluator: "Evaluator", domain: str, choice: int, loss: bool) -> dict[str, Any]:
    """One item: {"domain", "choice", "loss" or None, "macs", "params": {layer: value}, "integer": [layers]}."""
    told = next(one for one in evaluator.prepared.space.domains if one.name == domain)
    recipe = Recipe.of([Step(told.technique, unit, value) for unit, value in told.effects[choice]])
    lessons, held, calibration = evaluator.learning_data()
    with evaluator.machine.working():
        try:
            draft = compress(
                evaluator.model,
                recipe,
                calibration,
                structure=evaluator.prepared.structure,
                moments=evaluator.moments(calibration),
                students=evaluator.task.students(evaluator.model),
            )
            found = {"loss": loss_of(evaluator, draft, held[:BATCHES]) if loss else None, **work_of(evaluator, draft)}
        except Exception as error:  # a stranger's model: whatever it raises, the choice cannot be made
            return hopeless({"domain": domain, "choice": choice}, str(error))
    return {"domain": domain, "choice": choice, **found}


def loss_of(evaluator: "Evaluator", draft: Draft, held: Sequence) -> float:
    """The gap that one choice leaves."""
    pause = evaluator.machine.pause
    if draft.bits:
        return file_gap(evaluator, draft, held)
    if draft.kept or draft.replaced:
        known = evaluator.reference
        reads = {name for name, axis in draft.kept if axis == "in"}
        goals = {name: goal for name, goal in known.targets.items() if name not in draft.masks and (not reads or name in reads)}
        if "" not in draft.replaced:
            resolving.resolve(draft.model, goals, draft.kept, known.batches, pause)
    return judge(draft.model, held, pause)


def file_gap(evaluator: "Evaluator", draft: Draft, held: Sequence) -> float:
    """The gap of the shipped file of a draft."""
    folder = evaluator.out / "tables"
    path = folder / f"{abs(hash(tuple(sorted(draft.bits))))}{evaluator.runtime.suffix}"
    try:
        calibration = evaluator.learning_data()[2][:CALIBRATION]
        evaluator.runtime.finish(draft, evaluator.untouched_file(), calibration, path)
        return gap_of_file(evaluator, path, held)
    finally:
        path.unlink(missing_ok=True)


def gap_of_file(evaluator: "Evaluator", path: Path, held: Sequence) -> float:
    """Mean gap between a file's outputs and the original's on batches of lessons."""
    session = evaluator.runtime.open(path, evaluator.job.work_threads)
    total = 0.0
    with torch.no_grad():
        for lesson in held:
            evaluator.machine.pause()
            total += float(gap(session.run(lesson.inputs), lesson.outputs))
    return total / max(len(held), 1)


def work_of(evaluator: "Evaluator", draft: Draft) -> dict[str, Any]:
    """Multiply-accumulates and parameters that each original layer has left, what replaced it included."""
    now, _ = trace(draft.model, evaluator.example)
    macs: dict[str, float] = {}
    params: dict[str, float] = {}
    for name in evaluator.prepared.structure.layers:
        own = [layer for other, layer in now.items() if other == name or other.startswith(name + ".")]
        macs[name], params[name] = float(sum(layer.macs for layer in own)), float(sum(layer.params for layer in own))
    return {"macs": macs, "params": params, "integer": sorted(layer for layer, bits in draft.bits.items() if is_integer(bits))}


def times(evaluator: "Evaluator") -> dict[str, Any]:
    """{"float", "integer": {layer: ms}, "latency": ms}: each layer's kernels in the untouched file and in one with all layers integer;
    by MACs where the runtime has no profiler, or its profile does not know the layers."""
    structure, path = evaluator.prepared.structure, evaluator.untouched_file()
    latency = evaluator.prepared.untouched.get("latency_ms")
    known = profile(evaluator, path) if hasattr(evaluator.runtime, "profile") else {}
    if sum(ms for name, ms in known.items() if name) < NAMED * sum(known.values()) or not known:
        whole = max(structure.macs, 1)
        return {
            "float": {name: latency * layer.macs / whole for name, layer in structure.layers.items()},
            "integer": {},
            "latency": latency,
        }
    found = {"float": known, "integer": {}, "latency": latency}
    recipe = evaluator.prepared.space.decode(evaluator.prepared.space.uniform(bits=10_000))
    layers = {step.unit: 8 for step in recipe.steps if step.technique == "bits" and step.value == 8}
    if layers:
        draft = Draft(evaluator.model, structure, evaluator.example, bits=layers)
        whole = evaluator.out / "tables" / f"integer{evaluator.runtime.suffix}"
        evaluator.runtime.finish(draft, path, evaluator.learning_data()[2], whole)
        found["integer"] = {name: ms for name, ms in profile(evaluator, whole).items() if name in layers}
        whole.unlink()
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
