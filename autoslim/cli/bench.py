"""``autoslim bench``: time shipped files, alone or in turn with an untouched one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _flags, _out
from autoslim.host import counted_threads


def add(app: typer.Typer) -> None:
    app.command(
        "bench",
        help="Time model files; with several, the last is what the others are compared with. "
        "Example: autoslim bench model.onnx untouched.onnx",
    )(bench)


def bench(
    files: Annotated[
        list[Path], typer.Argument(help="Shipped model files; of several, the last is timed in turn with each of the others.")
    ],
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    threads: _flags.Threads = None,
    runtime: _flags.Runtime = None,
    target: _flags.Target = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="Longest time to measure, per file; less where 3 % are reached sooner.")
    ] = 20.0,
    rounds: Annotated[int, typer.Option("--rounds", min=4, help="How often the files are opened anew.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers as JSON, one line per file.")] = False,
) -> int:
    """Print the times of the files, timed in turn; exit status 0."""
    from autoslim import plugins
    from autoslim.device import contest_of
    from autoslim.errors import UserError
    from autoslim.machine import Machine
    from autoslim.spec import load_study

    for path in files:
        if not path.is_file():
            raise UserError(f"FILE: no file {str(path)!r}")
    if len({runtime_of(path) for path in files}) > 1:
        raise UserError(f"FILE: got files of different runtimes ({', '.join(path.suffix for path in files)}), allowed: all of one")
    if not 0 < seconds < float("inf"):
        raise UserError(f"--seconds: got {seconds}, allowed: a number above 0, such as 20")
    told = load_study(None, {"threads": threads, **_flags.runtime_of_target(runtime, target)})
    _flags.refuse_threads(told)
    count = told.threads or threads_of(files) or told.resolved_threads()
    door = plugins.load("runtimes", told.runtime if runtime or target else runtime_of(files[0]))
    inputs = inputs_of(files[0], door, task, task_arg)
    if task:
        refuse_unlike(files, door, inputs, task)
    contest = contest_of(door, count, inputs)
    timed, baseline = (files[:-1], files[-1]) if len(files) > 1 else (files, files[0])
    with Machine().alone():
        found = measure(contest, timed, baseline, seconds, rounds)
    for file, result in zip(timed, found, strict=True):
        for line in report(file, baseline if len(files) > 1 else None, result, count, as_json):
            _out.say(line)
    return 0


def threads_of(files: list[Path]) -> int:
    """The threads that the study whose ``models`` folder holds all of the files was timed with; 0 where there is none or are several."""
    from autoslim.job import timed_threads

    found = {timed_threads(path.resolve().parent.parent.parent) for path in files}
    return found.pop() if len(found) == 1 else 0


def inputs_of(file: Path, runtime: Any, task: str | None, task_arg: list[str] | None) -> list[tuple[Any, float]]:
    """What is timed: the task's inputs, or zeros of the shapes that the file itself tells. Raises UserError where neither is known."""
    from autoslim.errors import UserError

    if task:
        from autoslim.task import load

        return load(task, _flags.pairs(task_arg)).latency_inputs()
    session = runtime.open(file, 1)
    if not hasattr(session, "example"):
        raise UserError(f"--task: needed for {file.suffix} files, which do not tell the shapes of their inputs")
    return [(session.example(), 1.0)]


def refuse_unlike(files: list[Path], runtime: Any, inputs: list[tuple[Any, float]], task: str) -> None:
    """Raise UserError for a file that does not run on the task's inputs."""
    from autoslim.errors import UserError

    for file in files:
        session = runtime.open(file, 1)
        for one, _ in inputs:
            try:
                session.run(one)
            except Exception as error:  # each runtime has its own
                why = " ".join(str(error).split())[:200]
                raise UserError(
                    f"--task: got {task!r}, whose inputs {file} does not take ({why}), allowed: the task that the file was made for"
                ) from error


def measure(contest: Any, timed: list[Path], baseline: Path, seconds: float, rounds: int) -> list[Any]:
    """Timings of all files, in rotation, until all are known within 3 % (after four rounds at least) or the time is used up."""
    tracks: list[list[Any]] = [[] for _ in timed]
    for turn in range(rounds):
        for own, latest in zip(tracks, contest.tournament(timed, baseline, seconds * len(timed) / rounds), strict=True):
            own.append(latest)
        if turn >= 3 and all(contest.settle(own).converged for own in tracks):
            break
    return [contest.settle(own) for own in tracks]


def report(file: Path, baseline: Path | None, found: Any, threads: int, as_json: bool) -> Iterator[str]:
    """The lines to print of one file."""
    if as_json:
        yield json.dumps(
            {
                "file": str(file),
                "baseline": str(baseline) if baseline else None,
                "threads": threads,
                "p50_ms": vars(found.p50),
                "p95_ms": found.p95,
                "ratio": vars(found.ratio) if baseline else None,
                "pairs": found.pairs,
                **{name: vars(value) for name, value in device_facts(found).items()},
            }
        )
        return
    if baseline:
        yield f"{file}: ratio {found.ratio.value:.4f} ({found.ratio.low:.4f} to {found.ratio.high:.4f}) of {baseline}"
    p50 = found.p50
    yield f"p50 {p50.value:.4f} ms ({p50.low:.4f} to {p50.high:.4f}), p95 {found.p95:.4f} ms, {counted_threads(threads)}, {found.pairs} pairs"
    for name, value in device_facts(found).items():
        yield f"{name} {value.value:.6g}" + (f" ({value.low:.6g} to {value.high:.6g})" if value.low is not None else "")
    if baseline:
        yield f"baseline p50 {found.baseline_p50.value:.4f} ms"


def device_facts(found: Any) -> dict[str, Any]:
    """What a device told beside times."""
    names = ("energy_mj", "peak_memory_bytes")
    return {name: value for name in names if (value := getattr(found, name, None)) is not None}


def runtime_of(file: Path) -> str:
    """The runtime that writes files of this ending; of a .pt2, the one that compiled it or the one that runs it as a program. Raises UserError for an
    ending of no runtime."""
    from autoslim.errors import UserError

    known = {".onnx": "onnxruntime_cpu", ".pt2": "torch_inductor" if compiled(file) else "torch_eager", ".pte": "executorch_xnnpack"}
    if file.suffix not in known:
        raise UserError(f"FILE: got {str(file)!r}, allowed endings: {', '.join(known)}")
    return known[file.suffix]


def compiled(file: Path) -> bool:
    """Whether a package of PyTorch holds a compiled library."""
    import zipfile

    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as package:
        return any("/data/aotinductor/" in name for name in package.namelist())
