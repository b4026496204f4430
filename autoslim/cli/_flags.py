"""Flags that several commands share, and how they become the content of a study."""

from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.errors import UserError

Task = Annotated[
    str | None,
    typer.Option("--task", help="Task: a .py file, a module, or an installed task (docs/task.md). Default: the embedded digits network."),
]
TaskArg = Annotated[list[str] | None, typer.Option("--task-arg", help="Argument for the task's functions, k=v; may be repeated.")]
Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Short cut instead of --task: torchvision:NAME, hf:PATH_OR_NAME or onnx:FILE.")
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        "-d",
        help="With --model: imagefolder:PATH, csv:FOLDER, npz:FOLDER (train, val, test below it) or random:N (N unlabelled batches of 16).",
    ),
]
Part = Annotated[str | None, typer.Option("--part", help="Which of the task's parts() to compress; default: the largest.")]
Runtime = Annotated[str | None, typer.Option("--runtime", help="Runtime of the shipped files (autoslim list runtimes).")]
Threads = Annotated[
    str | None,
    typer.Option(
        "--threads",
        help="Threads that are timed; default: the physical cores this process may use, on a virtual machine 1 (docs/numbers.md says why).",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="AUTOSLIM_ADDRESS",
        help="With --executor ray_tune: the cluster's head, host:port, or auto. Default: this machine.",
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="Where times are taken: 'cmd:COMMAND', a command with {file} in it that prints JSON (docs/devices.md); "
        "or, with --executor ray_tune, a bench (autoslim worker --target NAME).",
    ),
]
MaxSamples = Annotated[str | None, typer.Option("--max-samples", help="At most so many samples of each split.")]
BudgetMs = Annotated[
    str | None, typer.Option("--budget-ms", help="Largest latency: milliseconds, or a share of the untouched model such as 60%.")
]
BudgetMb = Annotated[str | None, typer.Option("--budget-mb", help="Largest file: megabytes (10^6 bytes), or a share such as 25%.")]
BudgetMacs = Annotated[str | None, typer.Option("--budget-macs", help="Most multiply-accumulates: a number such as 50M, or a share.")]
BudgetMemory = Annotated[
    str | None, typer.Option("--budget-memory-mb", help="Most memory that the file adds to a process: megabytes, or a share.")
]
MaxDrop = Annotated[
    str | None, typer.Option("--max-drop", help="Largest loss of the metric: 1pp (absolute), 1% (relative) or a bare number (absolute).")
]
DropType = Annotated[
    str | None, typer.Option("--drop-type", help="absolute or relative: what a bare number of --max-drop is (default: absolute).")
]
Storage = Annotated[str | None, typer.Option("--storage", envvar="OPTUNA_STORAGE", help="The storage, if it is not the folder's journal.")]
StudyName = Annotated[str | None, typer.Option("--study-name", help="The study, if the storage holds several.")]


def pairs(values: list[str] | None) -> dict[str, str]:
    """["k=v"] -> {"k": "v"}. Raises UserError for a word without '='."""
    found = {}
    for value in values or []:
        key, sign, rest = value.partition("=")
        if not sign or not key:
            raise UserError(f"--task-arg: got {value!r}, allowed: name=value")
        found[key] = rest
    return found


def recipe_of(path: Path) -> Any:
    """The recipe of a file. Raises UserError for a file that cannot be read or is no recipe."""
    from autoslim import settings
    from autoslim.recipe import from_yaml

    if not path.is_file():
        raise UserError(f"RECIPE: no file {str(path)!r}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"RECIPE: {path} cannot be read ({error})") from None
    found = from_yaml(text, str(path))
    settings.check(found.recovery, str(path))
    return found


def task_of(task: str | None, task_arg: list[str] | None, model: str | None, data: str | None) -> dict[str, Any]:
    """The task part of a study from the flags; empty where none is given. Raises UserError for flags that exclude each other."""
    args = pairs(task_arg)
    if model or data:
        if task:
            raise UserError("--task and --model: give one of them; --model is a short cut that builds a task")
        if not model:
            raise UserError("--data: needs --model, such as --model torchvision:NAME; with --task the task itself gives the data")
        from autoslim.spec import SHORTCUT_TASK

        return {"task": SHORTCUT_TASK, "task_args": {"model": model, "data": data or "random:4", **args}}
    return ({"task": task} if task else {}) | ({"task_args": args} if args else {})


def runtime_of_target(runtime: str | None, target: str | None, benches: bool = False) -> dict[str, Any]:
    """The runtime part of a study; a target that is a command is a runtime of its own, others are for who knows ``benches``.
    Raises UserError for a target that is none."""
    if target is not None and not benches and not target.startswith("cmd:"):
        raise UserError(f"--target: got {target!r}, allowed: 'cmd:COMMAND' with {{file}} in the command")
    if target is None or not target.startswith("cmd:"):
        return {"runtime": runtime}
    if runtime not in (None, "onnxruntime_cpu"):
        raise UserError(f"--runtime: got {runtime!r} with --target cmd:, allowed: onnxruntime_cpu, whose files the command gets")
    return {"runtime": target}


def cluster_of(address: str | None, target: str | None) -> dict[str, Any]:
    """The cluster part of a study from the flags; empty where none is given."""
    found = {
        name: value for name, value in (("address", address), ("target", target)) if value is not None and not value.startswith("cmd:")
    }
    return {"executor_options": found} if found else {}


def refuse_cluster(address: str | None, target: str | None, executor: str) -> None:
    """Raise UserError for --address or --target that the executor of the study does not take."""
    import inspect

    from autoslim import plugins

    told = cluster_of(address, target).get("executor_options", {})
    taken = inspect.signature(plugins.find("executors", executor)).parameters if told else {}
    for name, value in told.items():
        if name not in taken:
            own = "'cmd:COMMAND' with {file} in the command, or a bench with --executor ray_tune"
            allowed = own if name == "target" else "host:port or auto with --executor ray_tune"
            raise UserError(f"--{name}: got {value!r}, which the executor {executor} does not take, allowed: {allowed}")


def refuse_threads(spec: Any) -> None:
    """Raise UserError for more threads than this machine has processors, where it is this machine that times."""
    from autoslim.host import processors

    if spec.threads > processors() and spec.executor == "local" and not spec.runtime.startswith("cmd:"):
        raise UserError(
            f"--threads: got {spec.threads}, allowed: 1 to {processors()}, the processors that this process may use (0: the default)"
        )


def budget_of(
    ms: str | None, mb: str | None, macs: str | None, memory: str | None, drop: str | None, drop_type: str | None = None
) -> dict[str, Any]:
    """The budget part of a study from the flags."""
    given = {"ms": ms, "mb": mb, "macs": macs, "memory_mb": memory, "max_drop": drop_of(drop, drop_type)}
    found = {name: value for name, value in given.items() if value is not None}
    return {"budget": found} if found else {}


def drop_of(drop: str | None, kind: str | None) -> str | None:
    """``--max-drop`` with the unit that ``--drop-type`` gives a bare number. Raises UserError for another kind, and where there is no bare number."""
    if kind is None:
        return drop
    if kind not in ("absolute", "relative"):
        raise UserError(f"--drop-type: got {kind!r}, allowed: absolute, relative")
    if drop is None or drop.rstrip().endswith(("%", "p")):
        told = "no --max-drop" if drop is None else f"--max-drop {drop}, which says it itself"
        raise UserError(f"--drop-type: got {kind!r} with {told}, allowed: with a bare number such as --max-drop 0.01")
    try:
        return drop if kind == "absolute" else f"{100 * float(drop):.12g}%"
    except ValueError:
        return drop  # no number: whoever reads --max-drop says what is allowed
