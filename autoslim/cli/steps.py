"""``autoslim steps``: a fixed pipeline, with its rates after every step."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _flags, _out, _search_flags


def add(app: typer.Typer) -> None:
    app.command(
        "steps", help="Run the steps of a study or a recipe one by one and print what each saves and costs. Example: autoslim steps iris"
    )(steps)


def steps(
    source: Annotated[str, typer.Argument(help="A study with steps (a shipped name or a YAML file), or a recipe.yaml.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the file of every step; default: they are not kept.")] = None,
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    max_samples: _flags.MaxSamples = None,
    seed: _search_flags.Seed = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts, rates and notes as JSON.")] = False,
) -> int:
    """Run the steps in their order and print the rates after each; exit status 0."""
    import tempfile

    flags = {"runtime": runtime, "part": part, "threads": threads, "max_samples": max_samples, "seed": seed}
    study, stages = planned(source, {**flags, **_flags.task_of(task, task_arg, model, data)})
    from autoslim import stepping
    from autoslim.application import evaluator_of

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        if not as_json:
            _out.say(f"{'step':<28}" + "".join(f"{name:>12}" for name in stepping.RATES))
        for row in stepping.run(evaluator_of(study, folder), stages(), out):
            rows.append(row)
            if not as_json:
                _out.say(f"{row.name[:27]:<28}" + "".join(f"{cell(row, name):>12}" for name in stepping.RATES))
    if as_json:
        plain = [{"name": row.name, "counts": dict(row.counts), "rates": dict(row.rates), "notes": list(row.notes)} for row in rows]
        _out.say(json.dumps(plain, indent=1))
        return 0
    _out.say("\neach cell: (before - after) / before, where before is the untouched model")
    for name, meaning in stepping.RATES.items():
        _out.say(
            f"  {name}: {meaning}; untouched {rows[0].counts[name]:.6g}" if rows[0].counts[name] is not None else f"  {name}: no figure"
        )
    for row in rows:
        for note in row.notes:
            _out.say(f"note: {row.name}: {note}")
    return 0


def cell(row: Any, name: str) -> str:
    """A rate as text."""
    return "-" if row.rates[name] is None else f"{row.rates[name]:.2%}"


def planned(source: str, flags: dict[str, Any]) -> tuple[Any, Any]:
    """(study, function that gives its stages), all read and checked before any library of models is loaded.
    Raises UserError for a study without steps."""
    from autoslim import spec, yamlfile
    from autoslim.errors import UserError
    from autoslim.recipe import Recipe

    path = yamlfile.find("studies", source)
    data, lines = yamlfile.read(path)
    if isinstance(data, dict) and "schema" in data:
        recipe = Recipe.from_dict(data, source)

        def of_recipe() -> list[Any]:
            from autoslim.stepping import stages_of

            return stages_of(recipe)

        return spec.load_study(None, flags), of_recipe
    study = spec.load_study(source, flags)
    if not study.steps:
        raise UserError(f"{source}: has no steps; a study for this command has a list `steps`, as studies/iris.yaml")

    def of_study() -> list[Any]:
        """The study's own steps, each with its place in the file."""
        from autoslim.stepping import Stage

        def place(*where: Any) -> str:
            line = next((lines[where[:n]] for n in range(len(where), 0, -1) if where[:n] in lines), 1)
            return f"{path}:{line}: {'.'.join(map(str, where))}"

        return [
            Stage(
                step.name or ", ".join(step.techniques) or "recovery",
                step.techniques,
                step.layers,
                step.recovery,
                places={"layers": place("steps", i, "layers")} | {name: place("steps", i, "techniques", name) for name in step.techniques},
            )
            for i, step in enumerate(study.steps)
        ]

    return study, of_study
