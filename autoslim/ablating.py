"""What each family of techniques contributes, measured: the recommended recipe with one family taken out, and the search without it.

Recipes go through the same evaluator as candidates of the search, each measured whole on validation data, and the whole recipe is measured
again beside them, so that one table holds figures of one sitting of the machine. Nothing is added to the study's trials: the rows are a fact of their own.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from autoslim import plugins, report
from autoslim.budget import Drop, Limit, drop, feasible
from autoslim.candidate import Candidate, Done, Failed, Outcome
from autoslim.errors import UserError
from autoslim.metrics import Measurement, direction_of
from autoslim.recipe import Recipe, describe
from autoslim.search import job_of
from autoslim.spec import BudgetSpec, StudySpec
from autoslim.study import Study

#: the name of the fact
ABLATION = "ablation"
#: name of the rows of the recommended recipe, and of those of searches
POINT, SEARCH = "point", "search"


def without(recipe: Recipe) -> dict[str, Recipe]:
    """{family: the recipe without its steps}, with the same recovery. Layers of a block that "depth" removes are left as they were."""
    return {
        name: Recipe.of((step for step in recipe.steps if step.technique != name), recipe.recovery) for name in sorted(recipe.techniques())
    }


def spec_of(material: report.Material) -> StudySpec:
    """The settings of the study's latest run, and the threads that all of its runs timed. Raises UserError where times were taken on another machine."""
    told = material.context["spec"]
    if target := told["executor_options"].get("target"):
        raise UserError(f"ablate: the times of this study were taken on bench {target!r}; run autoslim ablate on a study of this machine")
    limits = {name: Limit(*value) for name, value in told["budget"].items()}
    budget = BudgetSpec.model_construct(**{**dict.fromkeys(BudgetSpec.model_fields), **limits})
    budget.max_drop = Drop(*told["max_drop"]) if told["max_drop"] else None
    known = {name: value for name, value in told.items() if name in StudySpec.model_fields and name not in ("budget", "max_drop")}
    threads = (material.fact("identity") or {}).get("threads", told["threads"])
    return StudySpec(**known).model_copy(update={"budget": budget, "threads": threads})


def measured(spec: StudySpec, recipes: Mapping[str, Recipe], identity: Mapping[str, Any], say: Callable[[str], None]) -> Iterator[tuple]:
    """(name, outcome, untouched of this session) of each recipe in turn, by one worker of this machine, in a folder that is thrown away.
    Raises UserError if the task is no longer what the study was about."""
    with tempfile.TemporaryDirectory() as folder:
        executor = plugins.load("executors", "local", job=job_of(spec, Path(folder)), workers=1)
        try:
            say("measuring the untouched model")
            prepared = executor.prepare()
            if other := [name for name, value in prepared.identity.items() if identity.get(name) != value]:
                raise UserError(f"ablate: the study was made with another {', '.join(other)}; results of unlike things do not mix")
            for number, (name, recipe) in enumerate(recipes.items()):
                say(f"measuring {describe(recipe)}" + (f", without {name}" if name else ", whole"))
                executor.submit(Candidate(number, {}, recipe, "ablation"))  # a label: no rung stops it early
                outcomes = list(executor.outcomes(1.0))
                while not outcomes:
                    outcomes = list(executor.outcomes(1.0))
                yield name, outcomes[0][1], prepared.untouched
        finally:
            executor.close()


def point_row(name: str, point: str, recipe: Recipe, outcome: Outcome, untouched: Measurement, direction: str) -> dict[str, Any]:
    """One row about the recommended recipe: ``without`` is the family that was taken out, "" for the whole."""
    row = {"kind": POINT, "without": name, "point": point, "key": recipe.key, "summary": describe(recipe), "recipe": recipe.as_dict()}
    row |= {"seconds": round(sum(outcome.seconds.values()), 2), "end": type(outcome).__name__.lower()}
    if isinstance(outcome, Failed):
        return row | {"detail": f"{outcome.reason}: {outcome.detail}"}
    return row | figures(outcome.measurement, untouched, direction) | {"feasible": feasible(outcome.violations)}


def figures(found: Measurement, untouched: Measurement, direction: str) -> dict[str, Any]:
    """The measured columns, on validation data."""
    metric, ratio, time = (found.values.get(name) for name in ("metric", "latency_ratio", "latency_ms"))
    return {
        "metric_val": metric.value,
        "metric_val_low": metric.low,
        "metric_val_high": metric.high,
        "drop_val": drop(metric.value, untouched.get("metric"), direction),
        "latency_ms": time.value,
        "latency_ratio": ratio.value,
        "latency_ratio_low": ratio.low,
        "latency_ratio_high": ratio.high,
        "size_bytes": found.get("size_bytes"),
        "size_ratio": found.get("size_bytes") / untouched.get("size_bytes"),
        "macs": found.get("macs"),
        "params": found.get("params"),
    }


def families(space: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{family: the space file's content without it}, of spaces that still decide something."""
    techniques = space["techniques"]
    return {
        name: {**space, "techniques": {other: told for other, told in techniques.items() if other != name}}
        for name in techniques
        if len(techniques) > 1
    }


def searched(
    spec: StudySpec, material: report.Material, space: Mapping[str, Any], out: Path, trials: int, run: Callable[[StudySpec, Path], Any]
) -> Iterator[dict[str, Any]]:
    """One row per family: the search without it, at as many evaluations, beside what this study had reached after as many. ``run`` searches."""
    import yaml

    volumes = report.history(material.entries, material.context)
    for name, content in families(space).items():
        folder = out / f"without-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "space.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        told = {"space": str(folder / "space.yaml"), "trials": trials, "time": None, "patience": 0, "warm_start": "", "verify": 1}
        summary = run(spec.model_copy(update={**told, "name": f"{material.name}-without-{name}"}), folder)
        count = summary["evaluations"]
        yield {
            "kind": SEARCH,
            "without": name,
            "point": "",
            "end": "done",
            "evaluations": count,
            "hypervolume": summary["hypervolume"]["value"],
            "hypervolume_whole": volumes[min(count, len(volumes)) - 1] if volumes and count else 0.0,
            "seconds": summary["seconds"]["total"],
        }


def ablate(
    folder: Path,
    key: str | None = None,
    trials: int | None = None,
    run: Callable[[StudySpec, Path], Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
    storage: str | None = None,
    name: str | None = None,
) -> list[dict[str, Any]]:
    """Measure, store and return the rows; with ``run`` the searches too, each of ``trials`` evaluations (None: as many as the study made).
    Writes the report again. Raises UserError for a study without a compressed point, StudyInUse while a search runs."""
    material = report.Material(Study.read(folder, name, storage))
    spec, context = spec_of(material), material.context
    point = chosen(material, key)
    entry = material.points[point["key"]]
    directions = [direction_of(objective, context["metric_direction"]) for objective in spec.objectives]
    study = Study.open(folder, material.name, directions, storage)
    try:
        rows = []
        recipes = {"": entry.outcome.recipe, **without(entry.outcome.recipe)}
        for family, outcome, untouched in measured(spec, recipes, material.fact("identity"), say):
            rows.append(point_row(family, entry.key, recipes[family], outcome, untouched, context["metric_direction"]))
            study.renew()
        kept = [row for row in study.fact(ABLATION) or [] if row["kind"] == SEARCH]
        study.set_fact(ABLATION, rows + kept)
        if run is not None:
            count = trials or material.evaluations
            for row in searched(spec, material, space_of(spec, material), folder / "ablation", count, run):
                rows.append(row)
                study.renew()
            study.set_fact(ABLATION, rows)
        else:
            rows += kept
        report.write(study, folder)
    finally:
        study.close()
    return rows


def chosen(material: report.Material, key: str | None) -> Mapping[str, Any]:
    """The row of the point that is taken apart: the recommended one, or the one whose key begins with ``key``.
    Raises UserError where there is no such point."""
    rows = [row for row in material.offered if row["key"].startswith(key)] if key else [material.chosen] if material.chosen else []
    rows = [row for row in rows if material.points[row["key"]].outcome.recipe.steps]
    if len(rows) != 1:
        known = (
            ", ".join(row["key"] for row in material.offered if material.points[row["key"]].outcome.recipe.steps) or "none is verified yet"
        )
        raise UserError(f"--point: got {key or 'no point that was compressed'!r}, allowed: the key of one verified point ({known})")
    return rows[0]


def space_of(spec: StudySpec, material: report.Material) -> Mapping[str, Any]:
    """The space file that the study searched; of "auto" the one that its decisions come from."""
    content = spec.space_content()
    if "auto" not in content:
        return content
    from autoslim import offers
    from autoslim.application import evaluator_of
    from autoslim.coverage import analyse

    with tempfile.TemporaryDirectory() as folder:
        evaluator = evaluator_of(spec, folder)
        return content["auto"][offers.family(analyse(evaluator.model, evaluator.example))]


__all__ = ["ABLATION", "Done", "ablate", "without"]
