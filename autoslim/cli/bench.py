"""``autoslim bench``: time a shipped file, alone or in turn with another."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags


def add(app: typer.Typer) -> None:
    app.command(
        "bench",
        help="Time a model file; with a second one, its time as a ratio to that one. Example: autoslim bench model.onnx untouched.onnx",
    )(bench)


def bench(
    file: Annotated[Path, typer.Argument(help="A shipped model file.")],
    baseline: Annotated[Path | None, typer.Argument(help="A file to compare with, timed in turn.")] = None,
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    threads: _flags.Threads = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Longest time to measure.")] = 10.0,
    rounds: Annotated[int, typer.Option("--rounds", min=2, help="How often the files are opened anew.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers as JSON.")] = False,
) -> int:
    from autoslim import plugins, timing
    from autoslim.contest import Contest
    from autoslim.errors import UserError
    from autoslim.spec import load_study

    for path in filter(None, (file, baseline)):
        if not path.is_file():
            raise UserError(f"FILE: no file {str(path)!r}")
    runtime = runtime_of(file)
    count = load_study(None, {"threads": threads}).resolved_threads()
    if task:
        from autoslim.task import load

        inputs = load(task, _flags.pairs(task_arg)).latency_inputs()
    else:
        session = plugins.load("runtimes", runtime).open(file, 1)
        if not hasattr(session, "example"):
            raise UserError(f"--task: needed for {file.suffix} files, which do not tell the shapes of their inputs")
        inputs = [(session.example(), 1.0)]
    door = plugins.load("runtimes", runtime)

    contest = Contest(door, count, inputs)
    with timing.Machine().alone():
        found = contest.rounds(file, baseline or file, rounds, seconds)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "file": str(file),
                    "baseline": str(baseline) if baseline else None,
                    "threads": count,
                    "p50_ms": vars(found.p50),
                    "p95_ms": found.p95,
                    "ratio": vars(found.ratio) if baseline else None,
                    "pairs": found.pairs,
                }
            )
        )
        return 0
    if baseline:
        typer.echo(f"ratio {found.ratio.value:.4f} ({found.ratio.low:.4f} to {found.ratio.high:.4f}) of {baseline}")
    typer.echo(
        f"p50 {found.p50.value:.4f} ms ({found.p50.low:.4f} to {found.p50.high:.4f}), p95 {found.p95:.4f} ms, {count} threads, {found.pairs} pairs"
    )
    if baseline:
        typer.echo(f"baseline p50 {found.baseline_p50.value:.4f} ms")
    return 0


def runtime_of(file: Path) -> str:
    """The runtime that writes files of this ending."""
    from autoslim.errors import UserError

    known = {".onnx": "onnxruntime_cpu", ".pt2": "torch_eager"}
    if file.suffix not in known:
        raise UserError(f"FILE: got {str(file)!r}, allowed endings: {', '.join(known)}")
    return known[file.suffix]
