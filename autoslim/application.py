"""One recipe, one file: what `autoslim apply` does, outside any study."""

import tempfile
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
        task = evaluator.task
        if out.suffix != evaluator.runtime.suffix:
            raise UserError(f"--out: got {str(out)!r}, allowed: a name ending in {evaluator.runtime.suffix}, the runtime's file")
        lessons, held, calibration = evaluator.learning_data()
        untouched = evaluator.untouched_file()
        plain = compress(evaluator.model, Recipe(), calibration)
        evaluator.export(plain, calibration, untouched)
        draft = compress(
            evaluator.model, recipe, calibration, structure=plain.structure, moments=plain.moments, students=task.students(evaluator.model)
        )
        loss = task.loss() if evaluator.has_targets else None
        notes = recover(draft, evaluator.model, lessons, held, recipe.recovery, loss=loss, seed=spec.seed) + draft.notes
        notes += longer(draft) if longer else []
        base = Path(folder) / f"base{evaluator.runtime.suffix}"
        notes += evaluator.export(draft, calibration, base)
        notes += evaluator.runtime.finish(draft, base, calibration, out)
        score, reference = evaluator.score(out, untouched, None), evaluator.score(untouched, untouched, None)
        return {
            "notes": notes,
            "metric_name": next(iter(score.values)) if evaluator.has_targets else AGREEMENT,
            "metric": next(iter(score.values.values())),
            "untouched_metric": next(iter(reference.values.values())),
            "size_bytes": out.stat().st_size,
            "untouched_bytes": untouched.stat().st_size,
        }
