"""``autoslim apply``: recipe -> file, also on retrained weights."""

from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags


def add(app: typer.Typer) -> None:
    app.command(
        "apply", help="Make the file of a recipe from a task's model. Example: autoslim apply recipe.yaml --task task.py -o model.onnx"
    )(apply)


def apply(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml that a search wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    max_samples: _flags.MaxSamples = None,
) -> int:
    from autoslim import spec
    from autoslim.errors import UserError
    from autoslim.recipe import from_yaml

    if not recipe.is_file():
        raise UserError(f"RECIPE: no file {str(recipe)!r}")
    plan = from_yaml(recipe.read_text(encoding="utf-8"), str(recipe))
    wanted = spec.load_study(
        None,
        {"runtime": runtime, "part": part, "threads": threads, "max_samples": max_samples, **_flags.task_of(task, task_arg, model, data)},
    )
    from autoslim.application import apply as make

    made = make(plan, wanted, out)
    for note in made["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{out}: {made['metric_name']} {made['metric']:.4f} on validation data (untouched {made['untouched_metric']:.4f}), "
        f"{made['size_bytes'] / 1000:.0f} kB ({made['size_bytes'] / made['untouched_bytes']:.2f} of untouched)"
    )
    return 0
