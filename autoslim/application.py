"""One recipe, one file: what `autoslim apply` does, outside any study."""

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoslim import task as tasks
from autoslim.engine import Draft, compress
from autoslim.errors import UserError
from autoslim.evaluator import Evaluator
from autoslim.job import Job
from autoslim.recipe import Recipe
from autoslim.recovery import recover
from autoslim.spec import StudySpec
from autoslim.task import AGREEMENT


def evaluator_of(spec: StudySpec, folder: str) -> Evaluator:
    """An evaluator of the task outside any study, with its files in ``folder``."""
    task = tasks.load(spec.task, spec.task_args, spec.max_samples, spec.part)
    threads = spec.resolved_threads()
    job = Job(
        spec.task,
        spec.task_args,
        spec.runtime,
        threads,
        folder,
        spec.limits(),
        spec.objectives,
        {},
        spec.seed,
        spec.max_samples,
        threads,
        part=spec.part,
    )
    return Evaluator(job, task)


def apply(recipe: Recipe, spec: StudySpec, out: Path, longer: Callable[[Draft], list[str]] | None = None) -> dict[str, Any]:
    """Compress, recover and ship the task's model as ``out``; returns what the file scored on validation data. ``longer`` may train the
    recovered draft further, in place, and returns notes.

    Raises UserError for a file ending that the runtime does not write, Untreatable if the recipe does not fit the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        evaluator = evaluator_of(spec, folder)
        if out.suffix != evaluator.runtime.suffix:
            raise UserError(f"--out: got {str(out)!r}, allowed: a name ending in {evaluator.runtime.suffix}, the runtime's file")
        if threading.current_thread() is threading.main_thread():
            evaluator.machine.tick()
        with evaluator.machine.working():
            draft, notes = drafted(recipe, evaluator)
        notes += longer(draft) if longer else []
        with evaluator.machine.working():
            return shipped(evaluator, draft, out, notes)


def drafted(recipe: Recipe, evaluator: Evaluator) -> tuple[Draft, list[str]]:
    """The recovered draft of a recipe, and notes; the untouched file is written on the way."""
    lessons, held, calibration = evaluator.materials.lessons()
    plain = compress(evaluator.model, Recipe(), calibration)
    evaluator.export(plain, calibration, evaluator.untouched_file())
    students = evaluator.task.students(evaluator.model)
    draft = compress(evaluator.model, recipe, calibration, structure=plain.structure, moments=plain.moments, students=students)
    draft.initial = evaluator.task.initial
    loss = evaluator.task.loss() if evaluator.has_targets else None
    pool = evaluator.materials.pool(recipe.recovery)
    notes = recover(
        draft, evaluator.model, lessons, held, recipe.recovery, loss=loss, pause=evaluator.machine.pause, seed=evaluator.job.seed, pool=pool
    )
    return draft, [*notes, *draft.notes]


def shipped(evaluator: Evaluator, draft: Draft, out: Path, notes: list[str]) -> dict[str, Any]:
    """The draft as the file ``out``, and what that scores on validation data."""
    base, untouched, calibration = (
        evaluator.out / f"base{evaluator.runtime.suffix}",
        evaluator.untouched_file(),
        evaluator.materials.lessons()[2],
    )
    notes = [*notes, *evaluator.export(draft, calibration, base), *evaluator.runtime.finish(draft, base, calibration, out)]
    score, reference = evaluator.score(out, untouched, None), evaluator.score(untouched, untouched, None)
    return {
        "notes": notes,
        "metric_name": next(iter(score.values)) if evaluator.has_targets else AGREEMENT,
        "metric": next(iter(score.values.values())),
        "untouched_metric": next(iter(reference.values.values())),
        "size_bytes": out.stat().st_size,
        "untouched_bytes": untouched.stat().st_size,
    }
