"""``autoslim pick``: answer another budget from a finished study; nothing is evaluated."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags


def add(app: typer.Typer) -> None:
    app.command(
        "pick", help="Choose a verified point of a finished study for another budget. Example: autoslim pick reports/digits --budget-mb 0.2"
    )(pick)


def pick(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a search.")],
    budget_ms: _flags.BudgetMs = None,
    budget_mb: _flags.BudgetMb = None,
    budget_macs: _flags.BudgetMacs = None,
    budget_memory_mb: _flags.BudgetMemory = None,
    max_drop: _flags.MaxDrop = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the row of front.csv as JSON.")] = False,
    study_name: Annotated[str | None, typer.Option("--study-name", help="The study, if the storage holds several.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", envvar="OPTUNA_STORAGE", help="The storage, if it is not the folder's journal.")
    ] = None,
) -> int:
    from autoslim import report, spec, tables
    from autoslim.budget import feasible
    from autoslim.study import Study

    wanted = spec.load_study(None, _flags.budget_of(budget_ms, budget_mb, budget_macs, budget_memory_mb, max_drop))
    study = Study.read(folder, study_name, storage)
    context = report.context_of(study) | {"budget": wanted.limits()}
    rows = [
        row | {"feasible": feasible(tables.violations_of(row, context["budget"], context["untouched"]))} for row in report.front_rows(study)
    ]
    chosen = tables.best(rows, context)
    shown = chosen or tables.closest(rows, context)
    if shown is None:
        typer.echo("autoslim: the study has no verified point yet; let the search finish", err=True)
        return 3
    if as_json:
        typer.echo(json.dumps(dict(shown), sort_keys=True))
        return 0 if chosen else 3
    verdict = "meets the budget" if chosen else "is the closest; no verified point meets the budget"
    typer.echo(
        f"{shown['label'] or shown['key']} {verdict}: {shown['metric']} {shown['metric_test']:.4f} ({shown['test_split']}), "
        f"{shown['latency_ms']:.3g} ms ({shown['latency_ratio']:.2f} of untouched), {shown['size_bytes'] / 1000:.0f} kB ({shown['size_ratio']:.2f})"
    )
    typer.echo(f"file: {folder / shown['model_file']}")
    return 0 if chosen else 3
