"""What every single choice does, measured once: loss after its neighbours adapted, and each layer's work, bytes and time.

One item is one domain at one choice, all else untouched; items are independent, so that workers share them. The loss is the gap of
outputs on held-out inputs, with the layers that lost inputs solved anew, as a candidate's would be; for bit-widths it is that of the shipped
integer file. Choices between two measured ones are interpolated, since neighbours are alike.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autoslim import resolving
from autoslim.effects import hopeless
from autoslim.engine import Draft, compress
from autoslim.formats import is_integer, label
from autoslim.inputs import batch_size, call, rows
from autoslim.layers import trace
from autoslim.prediction import layer_bytes
from autoslim.recipe import Recipe, Step
from autoslim.recovery import Lesson, gap

if TYPE_CHECKING:
    from autoslim.evaluator import Evaluator

#: batches that a loss is judged on, and that integer ranges are taken from: enough to rank choices
BATCHES, CALIBRATION = 4, 2
#: samples of a piece that tells how sure a loss is, and draws of the bootstrap
PIECE, RESAMPLES = 8, 200


def measure(evaluator: "Evaluator", domain: str, choice: int, loss: bool) -> dict[str, Any]:
    """One item: {"domain", "choice", "loss" or None, "macs", "params": {layer: value}, "integer": {layer: format}, "bytes": {layer with bits: bytes}}."""
    told = next(one for one in evaluator.prepared.space.domains if one.name == domain)
    recipe = Recipe.of([Step(told.technique, unit, value) for unit, value in told.effects[choice]])
    lessons, held, calibration = evaluator.materials.lessons()
    with evaluator.machine.working():
        try:
            draft = compressed(evaluator, recipe, calibration)
            known = loss_of(evaluator, draft, held[:BATCHES]) if loss else None
            found = {"loss": known and known.mean, "spread": known and known.standard_error, **work_of(evaluator, draft)}
        except Exception as error:  # a stranger's model: whatever it raises, the choice cannot be made
            return hopeless({"domain": domain, "choice": choice}, str(error))
    return {"domain": domain, "choice": choice, **found}


@dataclass(frozen=True)
class Judged:
    """Of held-out batches the ``gaps``, and those of their ``pieces``, which tell how sure their mean is."""

    gaps: list[float]
    pieces: list[float]

    @property
    def mean(self) -> float:
        """Infinite where it is not a number."""
        mean = sum(self.gaps) / max(len(self.gaps), 1)
        return mean if mean == mean else float("inf")

    @property
    def standard_error(self) -> float | None:
        """Of the mean, by the bootstrap (Efron 1979) over the pieces; None where there are fewer than two or one is not a number."""
        values = np.asarray(self.pieces, dtype=float)
        if len(values) < 2 or not np.isfinite(values).all():
            return None
        drawn = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
        return float(values[drawn].mean(1).std())


def judged(run: Callable[[Any], Any], held: Sequence[Lesson], pause: Callable[[], None]) -> Judged:
    """The gaps between what ``run`` gives and the original's outputs."""
    found = Judged([], [])
    with torch.no_grad():
        for lesson in held:
            pause()
            outputs, size = run(lesson.inputs), batch_size(lesson.inputs)
            found.gaps.append(float(gap(outputs, lesson.outputs)))
            cuts = [(rows(outputs, i, i + PIECE, size), rows(lesson.outputs, i, i + PIECE, size)) for i in range(0, size, PIECE)]
            found.pieces.extend(float(gap(mine, other)) for mine, other in cuts)
    return found


def loss_of(evaluator: "Evaluator", draft: Draft, held: Sequence[Lesson]) -> Judged:
    """The gap that one choice leaves."""
    pause = evaluator.machine.pause
    if draft.bits and not draft.masks:  # weights that learnt their levels are not those of the untouched file
        return file_gap(evaluator, draft, held)
    if draft.kept or draft.replaced:
        known = evaluator.materials.reference
        reads = {name for name, axis in draft.kept if axis == "in"}
        goals = {name: goal for name, goal in known.targets.items() if name not in draft.masks and (not reads or name in reads)}
        if "" not in draft.replaced:
            resolving.resolve(draft.model, goals, draft.kept, known.batches, pause)
    return judged(lambda inputs: call(draft.model, inputs), held, pause)


def file_gap(evaluator: "Evaluator", draft: Draft, held: Sequence[Lesson]) -> Judged:
    """The gap of the shipped file of a draft."""
    folder = evaluator.out / "tables"
    path = folder / f"{abs(hash(tuple(sorted(draft.bits))))}{evaluator.runtime.suffix}"
    try:
        calibration = evaluator.materials.lessons()[2][:CALIBRATION]
        evaluator.runtime.finish(draft, evaluator.untouched_file(), calibration, path)
        return judged(evaluator.runtime.open(path, evaluator.job.work_threads).run, held, evaluator.machine.pause)
    finally:
        path.unlink(missing_ok=True)


def gap_of_file(evaluator: "Evaluator", path: Path, held: Sequence[Lesson]) -> float:
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
    layers = evaluator.prepared.structure.layers
    macs, params = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0.0)
    for name, layer in now.items():
        if (owner := owner_of(name, layers)) is not None:
            macs[owner] += layer.macs
            params[owner] += layer.params
    integer = {layer: label(bits) for layer, bits in sorted(draft.bits.items()) if is_integer(bits)}
    return {"macs": macs, "params": params, "integer": integer, "bytes": layer_bytes(draft) if draft.bits else {}}


def owner_of(name: str, layers: Collection[str]) -> str | None:
    """The original layer that a layer stands for: itself, or the innermost one in whose place it is. Attention is a layer for its products, and
    so are the projections inside it."""
    while name not in layers:
        if "." not in name:
            return "" if "" in layers else None
        name = name.rpartition(".")[0]
    return name


def compressed(evaluator: "Evaluator", recipe: Recipe, calibration: Sequence[Any]) -> Draft:
    """A recipe's draft, before any recovery."""
    return compress(
        evaluator.model,
        recipe,
        calibration,
        structure=evaluator.prepared.structure,
        moments=evaluator.materials.moments(calibration),
        students=evaluator.task.students(evaluator.model),
    )
