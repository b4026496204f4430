"""``autoslim profile``: what can be done to a network, and where its time goes on the runtime."""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags


def add(app: typer.Typer) -> None:
    app.command(
        "profile",
        help="Coverage of every technique and time per layer, before any search. Example: autoslim profile --model torchvision:resnet18",
    )(profile)


def profile(
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    from autoslim import spec

    wanted = spec.load_study(None, {"runtime": runtime, "part": part, "threads": threads, **_flags.task_of(task, task_arg, model, data)})
    from autoslim.profiling import profile as look

    with tempfile.TemporaryDirectory() as folder:
        found = look(wanted, Path(folder))
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return 0
    from autoslim.cli._live import coverage_lines

    for line in coverage_lines({**found["coverage"], "left_out": {}}):
        typer.echo(line)
    typer.echo(f"recommended space: {found['family']} (autoslim search --space {found['family']})")
    for name, why in found["coverage"]["left_out"].items():
        typer.echo(f"left alone: {name}: {why}")
    for names in found["coverage"]["tied"]:
        typer.echo(f"tied: {' = '.join(names)}")
    for note in found["coverage"]["not_counted"]:
        typer.echo(f"not counted: {note}")
    typer.echo(
        f"\n{found['latency_ms']:.4g} ms on {found['runtime']}, {found['threads']} threads"
        + ("; time per layer:" if found["layers"] else "")
    )
    for row in found["layers"]:
        typer.echo(f"  {row['ms']:8.4f} ms {row['share']:6.1%}  {row['layer']} ({row['op']})")
    return 0
