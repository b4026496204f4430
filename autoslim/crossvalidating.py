"""The best points of a study, each made again on parts of the training data and judged on the rest: k-fold cross-validation.

A search picks the luckiest of many points on one validation set. Here the cheapest points that keep the limits are compressed and recovered k
times, each time without another fold of the training samples, shipped as files, and scored on the fold that they have not seen (Stone 1974,
https://doi.org/10.1111/j.2517-6161.1974.tb00994.x). The original was trained on these samples, so that figures are for ranking points only.
"""

import csv
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from autoslim import pool, recommending, report, settings, threads
from autoslim.ablating import spec_of
from autoslim.application import evaluator_of
from autoslim.engine import compress
from autoslim.errors import UserError
from autoslim.evaluator import Evaluator
from autoslim.inputs import batch_size, call
from autoslim.lessons import Lesson
from autoslim.materials import CALIBRATION, HELD, LESSON_BATCH, LESSONS
from autoslim.metrics import direction_of, loss_sign
from autoslim.pool import Pool
from autoslim.recipe import Recipe, describe
from autoslim.recovery import gap, recover
from autoslim.study import Study

#: the name of the fact, and of the file
FOLDS = "folds"
COLUMNS = ("key", "summary", "cost", "metric_mean", "metric_error", "gap_mean", "metrics", "gaps", "chosen")


@dataclass(frozen=True)
class Split:
    """One fold: what is learnt from, what recovery judges itself on, and what is held back for the score."""

    lessons: list[Lesson]
    held: list[Lesson]
    learnt: Lesson
    back: list[Lesson]


def splits(whole: Pool, folds: int, seed: int) -> list[Split]:
    """``folds`` splits; every sample is held back once. Raises UserError where a fold would have less than a batch."""
    if whole.size < folds * LESSON_BATCH:
        raise UserError(f"--folds: got {folds}, allowed: 2 to {whole.size // LESSON_BATCH}, since the train split has {whole.size} samples")
    order = torch.randperm(whole.size, generator=torch.Generator().manual_seed(seed))
    found = []
    for fold in range(folds):
        rest = torch.cat([order[other::folds] for other in range(folds) if other != fold])
        judged, learnt = rest[: min(HELD, len(rest) // 5)], rest[min(HELD, len(rest) // 5) :]
        found.append(
            Split(batches(whole, learnt[:LESSONS]), batches(whole, judged), whole.lesson(learnt), batches(whole, order[fold::folds]))
        )
    return found


def batches(whole: Pool, chosen: torch.Tensor) -> list[Lesson]:
    """The chosen samples in batches as recovery takes them."""
    return [whole.lesson(part) for part in chosen.split(LESSON_BATCH)]


def judge(evaluator: Evaluator, recipe: Recipe, split: Split, folder: Path) -> tuple[float, float]:
    """(leading metric, gap to the original) of the recipe's file, made without the samples that it is judged on."""
    calibration = [lesson.inputs for lesson in split.lessons[: max(1, CALIBRATION // LESSON_BATCH)]]
    draft = compress(evaluator.model, recipe, calibration, students=evaluator.task.students(evaluator.model))
    draft.initial = evaluator.task.initial
    told = settings.check(recipe.recovery)
    more = None
    if told["samples"] and told["distill_steps"]:
        own = [(split.learnt.inputs, split.learnt.targets)]
        more = pool.build(evaluator.model, own, int(told["samples"]), told["views"], lambda: None)
    loss = evaluator.task.loss() if evaluator.has_targets else None
    recover(draft, evaluator.model, split.lessons, split.held, recipe.recovery, loss=loss, seed=evaluator.job.seed, pool=more)
    base, path = (folder / f"{name}{evaluator.runtime.suffix}" for name in ("base", "model"))
    evaluator.export(draft, calibration, base)
    evaluator.runtime.finish(draft, base, calibration, path)
    session = evaluator.runtime.open(path, evaluator.job.work_threads)

    def original(inputs: Any) -> Any:
        with torch.no_grad():
            return call(evaluator.model, inputs)

    back = [(lesson.inputs, lesson.targets) for lesson in split.back]
    score = evaluator.task.score(session.run, "train", None if evaluator.has_targets else original, back)
    weights = [batch_size(lesson.inputs) for lesson in split.back]
    gaps = [float(gap(session.run(lesson.inputs), lesson.outputs)) for lesson in split.back]
    return next(iter(score.values.values())), sum(value * weight for value, weight in zip(gaps, weights, strict=True)) / sum(weights)


def row_of(point: Mapping[str, Any], recipe: Recipe, found: Sequence[tuple[float, float]], cost: float) -> dict[str, Any]:
    """One row: the mean over the folds with its standard error."""
    metrics, gaps = [metric for metric, _ in found], [gap for _, gap in found]
    return {
        "key": point["key"],
        "summary": describe(recipe),
        "cost": cost,
        "metric_mean": fmean(metrics),
        "metric_error": stdev(metrics) / len(metrics) ** 0.5,
        "gap_mean": fmean(gaps),
        "metrics": metrics,
        "gaps": gaps,
    }


def choose(rows: Sequence[Mapping[str, Any]], direction: str) -> str:
    """The key of the cheapest point whose mean is within one standard error of the best (Breiman et al. 1984, the one-SE rule)."""
    sign = loss_sign(direction)
    top = min(rows, key=lambda row: (row["metric_mean"] * sign, row["cost"]))
    near = [row for row in rows if (row["metric_mean"] - top["metric_mean"]) * sign <= top["metric_error"] + 1e-12]
    return min(near, key=lambda row: row["cost"])["key"]


def candidates(material: report.Material, most: int) -> list[Mapping[str, Any]]:
    """The verified points that keep the limits, the cheapest first, at most ``most``. Raises UserError where there is none."""
    good = [row for row in material.offered if row["feasible"] and material.points[row["key"]].outcome.recipe.steps]
    if not good:
        raise UserError(f"study {material.name}: no verified point keeps the limits, so there is nothing to choose from")
    return sorted(good, key=lambda row: recommending.cost(row, material.context))[:most]


def crossvalidated(
    evaluator: Evaluator, material: report.Material, folds: int, most: int, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """One row per point, without the choice. Raises UserError for batches that cannot be joined."""
    points = candidates(material, most)
    recipes = {point["key"]: material.points[point["key"]].outcome.recipe for point in points}
    wanted = max(LESSONS + HELD, *(int(settings.check(recipe.recovery)["samples"]) for recipe in recipes.values()))
    split = "train" if evaluator.task.has("train") else "val"
    whole = pool.build(evaluator.model, evaluator.task.batches(split), wanted, "none", lambda: None)
    if whole is None:
        raise UserError("crossvalidate: the batches of this task cannot be joined, so there are no folds to make of them")
    parts = splits(whole, folds, evaluator.job.seed)
    with tempfile.TemporaryDirectory() as folder:
        for point in points:
            recipe = recipes[point["key"]]
            found = []
            for number, part in enumerate(parts, 1):
                say(f"{describe(recipe)}: fold {number} of {folds}")
                found.append(judge(evaluator, recipe, part, Path(folder)))
            yield row_of(point, recipe, found, recommending.cost(point, material.context))


def crossvalidate(
    folder: Path,
    folds: int = 3,
    most: int = 10,
    say: Callable[[str], None] = lambda text: None,
    storage: str | None = None,
    name: str | None = None,
) -> list[dict[str, Any]]:
    """Judge, store and return the rows of the ``most`` cheapest points that keep the limits, one of them ``chosen``; writes folds.csv.
    Raises UserError where the study has no such point or too few samples, StudyInUse while a search runs."""
    material = report.Material(Study.read(folder, name, storage))
    spec = spec_of(material)
    study = Study.open(folder, material.name, [direction_of(o, material.context["metric_direction"]) for o in spec.objectives], storage)
    try:
        with tempfile.TemporaryDirectory() as place:
            evaluator = evaluator_of(spec, place)
            threads.limit(spec.resolved_threads())
            if other := [key for key, value in evaluator.identity().items() if (material.fact("identity") or {}).get(key) != value]:
                raise UserError(f"crossvalidate: the study was made with another {', '.join(other)}; results of unlike things do not mix")
            rows = []
            for row in crossvalidated(evaluator, material, folds, most, say):
                rows.append(row)
                study.renew()
        best = choose(rows, material.context["metric_direction"])
        rows = [row | {"chosen": row["key"] == best} for row in rows]
        study.set_fact(FOLDS, rows)
    finally:
        study.close()
    with (folder / f"{FOLDS}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {name: " ".join(f"{value:.6f}" for value in row[name]) for name in ("metrics", "gaps")} for row in rows)
    return rows


__all__ = ["FOLDS", "choose", "crossvalidate", "splits"]
