"""``autoslim search``: search, verify, report. The same command resumes."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags

EXAMPLE = "Example: autoslim search --budget-ms 20. Running the same command again resumes; Ctrl-C once finishes with a verified front, twice stops."


def add(app: typer.Typer) -> None:
    app.command("search", help=f"Search for compressed models within a budget, verify the front on test data, write a report. {EXAMPLE}")(
        search
    )


def search(
    study: Annotated[
        str | None,
        typer.Argument(help="A study: a shipped name (autoslim list studies) or a YAML file. Default: the embedded digits network."),
    ] = None,
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    preset: Annotated[
        str | None, typer.Option("--preset", help="mobile, edge or server: objectives and threads for a class of devices.")
    ] = None,
    space: Annotated[str | None, typer.Option("--space", help="Search space: a shipped name, a YAML file, or auto.")] = None,
    budget_ms: _flags.BudgetMs = None,
    budget_mb: _flags.BudgetMb = None,
    budget_macs: _flags.BudgetMacs = None,
    budget_memory_mb: _flags.BudgetMemory = None,
    max_drop: _flags.MaxDrop = None,
    objectives: Annotated[
        str | None,
        typer.Option(
            "--objectives", help="Comma-separated, metric first: metric,latency_ms,size_bytes,throughput,macs,params,peak_memory_bytes."
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help="frontier (default), tpe, nsga2, random and others (autoslim list strategies).")
    ] = None,
    executor: Annotated[str | None, typer.Option("--executor", help="Where candidates run (autoslim list executors).")] = None,
    address: _flags.Address = None,
    target: _flags.Target = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    trials: Annotated[str | None, typer.Option("--trials", "--n-trials", help="Evaluations to make, repeats not counted.")] = None,
    time: Annotated[
        str | None, typer.Option("--time", "--timeout", help="Time for everything, verification included: 90s, 10m, 2h.")
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option("--warm-start", help="Folder of a finished study whose front is measured first.", metavar="DIR")
    ] = None,
    grid: Annotated[
        bool | None, typer.Option("--grid/--no-grid", help="Whether strategies without tables begin with the uniform grid (default: yes).")
    ] = None,
    patience: Annotated[str | None, typer.Option("--patience", help="Stop after so many evaluations without gain; 0: never.")] = None,
    workers: Annotated[str | None, typer.Option("--workers", help="Worker processes; default: one per physical core.")] = None,
    trial_timeout: Annotated[str | None, typer.Option("--trial-timeout", help="End a candidate after this time.")] = None,
    trial_memory_mb: Annotated[
        str | None, typer.Option("--trial-memory-mb", help="End a candidate whose process uses more memory.")
    ] = None,
    seed: Annotated[str | None, typer.Option("--seed", help="Random state.")] = None,
    max_samples: Annotated[str | None, typer.Option("--max-samples", help="At most so many samples of each split.")] = None,
    verify: Annotated[str | None, typer.Option("--verify", help="At most so many points of the front are verified.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Output folder; default reports/<study>.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage", envvar="OPTUNA_STORAGE", help="Any Optuna storage URL or a journal path; default: a journal in the output folder."
        ),
    ] = None,
    study_name: Annotated[str | None, typer.Option("--study-name", help="Name of the study in its storage.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder of measured candidates that studies of one network on one machine share.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json instead of the sentence.")] = False,
) -> int:
    from autoslim import report, spec
    from autoslim import search as loop
    from autoslim.study import Study

    flags = {
        "name": study_name,
        "space": space,
        "strategy": strategy,
        "executor": executor,
        "runtime": runtime,
        "part": part,
        "threads": threads,
        "trials": trials,
        "time": time,
        "patience": patience,
        "warm_start": warm_start,
        "grid": grid,
        "workers": workers,
        "trial_timeout": trial_timeout,
        "trial_memory_mb": trial_memory_mb,
        "seed": seed,
        "objectives": objectives,
        "max_samples": max_samples,
        "verify": verify,
        **_flags.cluster_of(address, target),
        **_flags.task_of(task, task_arg, model, data),
        **_flags.budget_of(budget_ms, budget_mb, budget_macs, budget_memory_mb, max_drop),
    }
    wanted = spec.load_study(study, flags, preset)
    folder = out or Path("reports") / wanted.resolved_name()
    stop = loop.Stop()
    signal.signal(signal.SIGINT, lambda number, frame: interrupt(stop))
    watcher = choose_watcher(quiet or as_json)
    try:
        summary = loop.run(wanted, folder, watcher, stop, storage, ["autoslim", *sys.argv[1:]], cache)
    finally:
        if hasattr(watcher, "stop"):
            watcher.stop()
    if as_json:
        typer.echo(json.dumps(summary, indent=1, sort_keys=True))
    else:
        record = Study.read(folder, wanted.resolved_name(), storage)
        context, rows = report.context_of(record), report.front_rows(record)
        typer.echo(report.answer(summary, rows, context))
        for text in report.asides(summary, rows):
            typer.echo(text)
        chosen = summary["best"] or summary["closest"]
        if chosen:
            typer.echo(f"file:   {folder / chosen['model_file']}\nreport: {folder / 'report.html'}")
    if stop.reason == "interrupted":
        return 130
    return 0 if summary["feasible"] else 3


def interrupt(stop: object) -> None:
    """First Ctrl-C: finish with what there is. Second: stop now; the study stays whole and resumes."""
    if stop.requested and stop.reason == "interrupted":
        raise KeyboardInterrupt
    stop.requested, stop.reason = True, "interrupted"
    print("\nautoslim: stopping; the front of what there is gets verified (Ctrl-C again stops at once)", file=sys.stderr)


def choose_watcher(quiet: bool) -> object:
    from autoslim.cli import _live

    if quiet:
        return _live.Silent()
    return _live.Live() if sys.stderr.isatty() else _live.Lines()
