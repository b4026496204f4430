"""``autoslim profile``: what can be done to a network, and where its time goes on the runtime."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out
from autoslim.host import counted_threads
from autoslim.places import writable_file

#: reasons that are told of a technique
MOST_TOLD = 3


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
    target: _flags.Target = None,
    threads: _flags.Threads = None,
    options: Annotated[
        Path | None,
        typer.Option("--options", help="Only write the option database here, as CSV: each layer's error at all bits, zeros and ranks."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Print what techniques reach and where the time goes; exit status 0."""
    from autoslim import spec

    wanted = spec.load_study(
        None, {**_flags.runtime_of_target(runtime, target), "part": part, "threads": threads, **_flags.task_of(task, task_arg, model, data)}
    )
    _flags.refuse_threads(wanted)
    if options is not None:
        writable_file(options, "--options")
    from autoslim.errors import UserError
    from autoslim.profiling import profile as look
    from autoslim.profiling import write_options

    if options is not None:
        many, missing = write_options(wanted, options)
        _out.say(f"{options}: {many} options" + (f"; none for {', '.join(missing)}" if missing else ""))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = look(wanted, Path(folder))
    if as_json:
        _out.say(json.dumps(found, indent=1))
        return 0
    from autoslim.cli._live import coverage_lines

    for line in coverage_lines({**found["coverage"], "left_out": {}}):
        _out.say(line)
    _out.say(f"recommended space: {found['family']} (autoslim search --space {found['family']})")
    for name, why in found["coverage"]["left_out"].items():
        _out.say(f"left alone: {name}: {why}")
    for technique, row in found["coverage"]["techniques"].items():
        if row["not_reached"]:
            _out.say(f"{technique} leaves alone: {reasons(row['not_reached'])}")
    for names in found["coverage"]["tied"]:
        _out.say(f"tied: {' = '.join(names)}")
    for note in found["coverage"]["not_counted"]:
        _out.say(f"not counted: {note}")
    if found["failure"]:
        raise UserError(f"no times: {found['failure']}; what is told above holds without them")
    _out.say(
        f"\n{found['latency_ms']:.4g} ms on {found['runtime']}, {counted_threads(found['threads'])}"
        + ("; time per layer:" if found["layers"] else "")
    )
    for name, unit in (("energy_mj", "mJ"), ("peak_memory_bytes", "bytes of memory")):
        if name in found:
            _out.say(f"{found[name]:.4g} {unit}, as the device tells")
    for row in found["layers"]:
        _out.say(f"  {row['ms']:8.4f} ms {row['share']:6.1%}  {row['layer']} ({row['op']})")
    return 0


def reasons(left: Mapping[str, str]) -> str:
    """Layers and why they are left alone: of each reason the first layer and how many more, the most frequent reasons first."""
    whys, first = Counter(left.values()), {why: name for name, why in reversed(left.items())}
    told = [f"{first[why]}{f' and {count - 1} more' if count > 1 else ''}: {why}" for why, count in whys.most_common(MOST_TOLD)]
    return "; ".join([*told, *([f"{len(whys) - MOST_TOLD} more reasons (--json)"] if len(whys) > MOST_TOLD else [])])
