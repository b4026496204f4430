"""``autoslim check``: does a recipe still hold on this task's weights? The gate for a pipeline."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out
from autoslim.places import writable_file, writable_folder


def add(app: typer.Typer) -> None:
    app.command(
        "check",
        help="Apply a recipe to a task's (retrained) model, verify the shipped file against limits, and say so by the exit status: 0 holds, 3 does not. "
        "Example: autoslim check recipe.yaml --task task.py --max-drop 1pp --budget-ms 20",
    )(check)


def check(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml that a search wrote.")],
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    budget_ms: _flags.BudgetMs = None,
    budget_mb: _flags.BudgetMb = None,
    budget_macs: _flags.BudgetMacs = None,
    budget_memory_mb: _flags.BudgetMemory = None,
    max_drop: _flags.MaxDrop = None,
    drop_type: _flags.DropType = None,
    repair: Annotated[bool, typer.Option("--repair", help="If it does not hold, try neighbours of the recipe.")] = False,
    repair_trials: Annotated[
        int | None, typer.Option("--repair-trials", min=1, help="With --repair: at most so many neighbours; default 12.")
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="With --repair: the space of the neighbours.")] = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    max_samples: _flags.MaxSamples = None,
    seed: Annotated[str | None, typer.Option("--seed", help="Random state.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the judged file and its recipe in this folder.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write a JUnit XML file.")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="Write a Markdown file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> int:
    """Exit status 0 if every limit holds, perhaps after a repair, 3 if not. JUnit and Markdown are written in both cases."""
    from autoslim import spec
    from autoslim.checking import check as judge
    from autoslim.errors import UserError
    from autoslim.reporting import gate

    for name, value in (("--space", space), ("--repair-trials", repair_trials)):
        if value is not None and not repair:
            raise UserError(f"{name}: got {str(value)!r} without --repair, allowed: only with --repair; add it, or leave {name} out")
    limits = _flags.budget_of(budget_ms, budget_mb, budget_macs, budget_memory_mb, max_drop, drop_type)
    if not limits:
        raise UserError("check: no limit is given; give --max-drop, --budget-ms, --budget-mb, --budget-macs or --budget-memory-mb")
    plan = _flags.recipe_of(recipe)
    flags = {"runtime": runtime, "part": part, "threads": threads, "max_samples": max_samples, "seed": seed, "space": space}
    wanted = spec.load_study(None, {**flags, **limits, **_flags.task_of(task, task_arg, model, data)})
    if out is not None:
        writable_folder(out, "--out")
    for flag, path in (("--junit", junit), ("--markdown", markdown)):
        if path is not None:
            writable_file(path, flag)
    with tempfile.TemporaryDirectory() as folder:
        found = judge(
            plan,
            wanted,
            out or Path(folder),
            (repair_trials or 12) if repair else 0,
            lambda text: print(f"autoslim: {text}", file=sys.stderr),
        )
    if as_json:
        _out.say(json.dumps(plain(found), sort_keys=True))
    else:
        _out.say(f"{recipe} {gate.sentence(found)}")
        for row in gate.rows(found):
            _out.say(
                f"  {row['limit']}: {row['measured']}"
                + (f" ({row['known']})" if row["known"] else "")
                + f", limit {row['bound']}: {row['holds']}"
            )
        if out and found.file:
            _out.say(f"file: {out / Path(found.file).name}")
    for flag, path, text in (
        ("--junit", junit, lambda: gate.junit(found, recipe.name)),
        ("--markdown", markdown, lambda: gate.markdown(found)),
    ):
        if path is not None:
            try:
                writable_file(path, flag).write_text(text(), encoding="utf-8")  # it could be, before the work
            except OSError as error:
                raise UserError(
                    f"{flag}: got {str(path)!r}, allowed: a file that can be written ({error.strerror}); give another one"
                ) from None
    return 0 if found.holds else 3


def plain(found: object) -> dict:
    """The verdict as JSON carries it."""
    return {**vars(found), "limits": [vars(limit) for limit in found.limits], "recipe": found.recipe.as_dict(), "holds": found.holds}
