"""``autoslim pick``: answer another budget from a finished study; nothing is evaluated."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out


def add(app: typer.Typer) -> None:
    app.command(
        "pick",
        help="Choose a verified point of a finished study for another budget, its knee, or weighted goals. "
        "Example: autoslim pick reports/digits --budget-mb 0.2",
    )(pick)


def pick(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a search.")],
    budget_ms: _flags.BudgetMs = None,
    budget_mb: _flags.BudgetMb = None,
    budget_macs: _flags.BudgetMacs = None,
    budget_memory_mb: _flags.BudgetMemory = None,
    max_drop: _flags.MaxDrop = None,
    drop_type: _flags.DropType = None,
    knee: Annotated[bool, typer.Option("--knee", help="The knee of the front within the limits.")] = False,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Weighted goals within the limits, such as metric=2,latency_ms=1.")
    ] = None,
    faithful: Annotated[
        bool,
        typer.Option("--faithful", help="Nearest to the original's outputs, of those whose metric is within the interval of the best."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the row of front.csv, with the reason, as JSON.")] = False,
    study_name: _flags.StudyName = None,
    storage: _flags.Storage = None,
) -> int:
    """Exit status 0 if a verified point meets the limits, 3 if none does (the nearest miss is printed) or none is verified yet."""
    from autoslim import reading, spec
    from autoslim.errors import UserError
    from autoslim.reporting import picking
    from autoslim.reporting.context import Material

    if knee + faithful + (weights is not None) > 1:
        raise UserError("--knee, --weights and --faithful: give one of them; the knee is the sum with equal weights")
    wanted = spec.load_study(None, _flags.budget_of(budget_ms, budget_mb, budget_macs, budget_memory_mb, max_drop, drop_type))
    goals = None if weights is None else picking.parse_weights(weights)
    material = Material(reading.read(folder, study_name, storage))
    picking.check_known(material, goals or {})
    found = picking.pick(material, material.context | {"budget": wanted.limits()}, knee, goals, faithful)
    if found.row is None:
        typer.echo("autoslim: the study has no verified point yet; let the search finish", err=True)
        return 3
    show(found, folder, as_json)
    return 0 if found.met else 3


def show(found: object, folder: Path, as_json: bool) -> None:
    """The answer, its reason and what was nearly chosen."""
    from autoslim.reporting.words import point_name, score, test_drop

    row = found.row
    others = [{"key": other["row"]["key"], "label": other["row"]["label"], "why": other["why"]} for other in found.alternatives]
    if as_json:
        _out.say(json.dumps(dict(row) | {"why": found.why, "warnings": found.warnings, "alternatives": others}, sort_keys=True))
        return
    verdict = "meets the budget" if found.met else "is the closest; no verified point meets the budget"
    _out.say(
        f"{row['label'] or row['key']} {verdict}: {row['metric']} {score(row, 'metric_test')} ({row['test_split']}), a drop of {test_drop(row)}, "
        f"{row['latency_ms']:.3g} ms ({row['latency_ratio']:.2f} of untouched), {row['size_bytes'] / 1000:.0f} kB ({row['size_ratio']:.2f})"
    )
    _out.say(f"file: {folder / row['model_file']}")
    for text in found.warnings:
        _out.say(f"warning: {text}")
    for text in found.why:
        _out.say(f"why: {text}")
    for other in found.alternatives:
        _out.say(f"not chosen: {point_name(other['row'])}, {other['why']}")
