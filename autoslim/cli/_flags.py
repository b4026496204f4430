"""Flags that several commands share, and how they become the content of a study."""

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
Threads = Annotated[str | None, typer.Option("--threads", help="Threads that are timed; default: the physical cores this process may use.")]
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
    typer.Option("--target", help="With --executor ray_tune: the bench where times are taken (autoslim worker --target NAME)."),
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
Storage = Annotated[str | None, typer.Option("--storage", envvar="OPTUNA_STORAGE", help="The storage, if it is not the folder's journal.")]
StudyName = Annotated[str | None, typer.Option("--study-name", help="The study, if the storage holds several.")]


def pairs(values: list[str] | None) -> dict[str, str]:
    """["k=v"] -> {"k": "v"}."""
    found = {}
    for value in values or []:
        key, sign, rest = value.partition("=")
        if not sign or not key:
            raise UserError(f"--task-arg: got {value!r}, allowed: name=value")
        found[key] = rest
    return found


def task_of(task: str | None, task_arg: list[str] | None, model: str | None, data: str | None) -> dict[str, Any]:
    """The task part of a study from the flags; empty where none is given."""
    args = pairs(task_arg)
    if model or data:
        if task:
            raise UserError("--task and --model: give one of them; --model is a short cut that builds a task")
        if not model:
            raise UserError("--data: needs --model, such as --model torchvision:NAME; with --task the task itself gives the data")
        from autoslim.spec import SHORTCUT_TASK

        return {"task": SHORTCUT_TASK, "task_args": {"model": model, "data": data or "random:4", **args}}
    return ({"task": task} if task else {}) | ({"task_args": args} if args else {})


def cluster_of(address: str | None, target: str | None) -> dict[str, Any]:
    """The cluster part of a study from the flags; empty where none is given."""
    found = {name: value for name, value in (("address", address), ("target", target)) if value is not None}
    return {"executor_options": found} if found else {}


def budget_of(ms: str | None, mb: str | None, macs: str | None, memory: str | None, drop: str | None) -> dict[str, Any]:
    """The budget part of a study from the flags."""
    given = {"ms": ms, "mb": mb, "macs": macs, "memory_mb": memory, "max_drop": drop}
    found = {name: value for name, value in given.items() if value is not None}
    return {"budget": found} if found else {}
