"""``autoslim why``: what keeps a shipped file from being faster, what each thing costs, and what to do."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _flags, _out
from autoslim.host import counted_threads


def add(app: typer.Typer) -> None:
    app.command(
        "why",
        help="Float kernels that were meant as integers, conversions, widths that miss the kernels' steps; with the file's untouched "
        "form also layers that got slower. Example: autoslim why model.onnx untouched.onnx",
    )(why)


def why(
    file: Annotated[Path, typer.Argument(help="A shipped model file.")],
    baseline: Annotated[Path | None, typer.Argument(help="The untouched file, to compare layer by layer.")] = None,
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    threads: _flags.Threads = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers as JSON.")] = False,
) -> int:
    """Print what the kernels cost and why; exit status 0."""
    from autoslim import kernels, plugins
    from autoslim.cli.bench import runtime_of
    from autoslim.errors import UserError
    from autoslim.machine import Machine
    from autoslim.spec import load_study

    for path in filter(None, (file, baseline)):
        if not path.is_file():
            raise UserError(f"FILE: no file {str(path)!r}")
    name = runtime_of(file)
    runtime = plugins.load("runtimes", name)
    if not hasattr(runtime, "profile"):
        raise UserError(f"FILE: got {str(file)!r}; {name} has no profiler, allowed endings: .onnx")
    count = load_study(None, {"threads": threads}).resolved_threads()
    if task:
        from autoslim.task import load

        inputs = load(task, _flags.pairs(task_arg)).latency_input
    else:
        inputs = runtime.open(file, 1).example()
    with Machine().alone():
        rows = runtime.profile(file, inputs, count)
        others = runtime.profile(baseline, inputs, count) if baseline else []
    explained = kernels.explain(rows, runtime.bits(file), runtime.widths(file), others, runtime.fell(file))
    found = {"file": str(file), "threads": count, **explained}
    _out.say(json.dumps(found, indent=1) if as_json else text(found))
    return 0


def text(found: dict[str, Any]) -> str:
    """What a person reads."""
    lines = [
        f"{found['ms']:.4g} ms in kernels, {counted_threads(found['threads'])}",
        f"{len(found['integer'])} of {len(found['meant'])} layers that were meant as integers run as integers",
    ]
    for one in found["findings"]:
        cost = "" if one["ms"] is None else f"{one['ms']:8.4f} ms  "
        lines += [f"{cost}{one['kind']}: {one['layer']} {one['kernel']}".rstrip() + f": {one['what']}", f"             {one['fix']}"]
    if not found["findings"]:
        lines.append("nothing found")
    return "\n".join(lines)
