"""``autoslim search``: search, verify, report. The same command resumes."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from autoslim.cli import _flags, _out, _search_flags

EXAMPLE = "Example: autoslim search --budget-ms 20. Running the same command again resumes; Ctrl-C once finishes with a verified front, twice stops."


def add(app: typer.Typer) -> None:
    app.command("search", help=f"Search for compressed models within a budget, verify the front on test data, write a report. {EXAMPLE}")(
        search
    )


def search(
    study: _search_flags.Study = None,
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    preset: _search_flags.Preset = None,
    space: _search_flags.Space = None,
    families: _search_flags.Families = None,
    budget_ms: _flags.BudgetMs = None,
    budget_mb: _flags.BudgetMb = None,
    budget_macs: _flags.BudgetMacs = None,
    budget_memory_mb: _flags.BudgetMemory = None,
    max_drop: _flags.MaxDrop = None,
    drop_type: _flags.DropType = None,
    objectives: _search_flags.Objectives = None,
    strategy: _search_flags.Strategy = None,
    executor: _search_flags.Executor = None,
    address: _flags.Address = None,
    target: _flags.Target = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    trials: _search_flags.Trials = None,
    time: _search_flags.Time = None,
    warm_start: _search_flags.WarmStart = None,
    grid: _search_flags.Grid = None,
    patience: _search_flags.Patience = None,
    workers: _search_flags.Workers = None,
    trial_timeout: _search_flags.TrialTimeout = None,
    trial_memory_mb: _search_flags.TrialMemoryMb = None,
    seed: _search_flags.Seed = None,
    max_samples: _search_flags.MaxSamples = None,
    verify: _search_flags.Verify = None,
    out: _search_flags.Out = None,
    storage: _search_flags.Storage = None,
    study_name: _search_flags.StudyName = None,
    cache: _search_flags.Cache = None,
    quiet: _search_flags.Quiet = False,
    as_json: _search_flags.AsJson = False,
) -> int:
    """Exit status 0 if a verified point meets the limits, 3 if none does, 130 after Ctrl-C."""
    from autoslim import search as loop
    from autoslim import spec
    from autoslim.errors import UserError
    from autoslim.study import Study

    flags = {
        "name": study_name,
        "space": space,
        "families": families,
        "strategy": strategy,
        "executor": executor,
        **_flags.runtime_of_target(runtime, target, benches=True),
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
        **_flags.budget_of(budget_ms, budget_mb, budget_macs, budget_memory_mb, max_drop, drop_type),
    }
    wanted = spec.load_study(study, flags, preset)
    _flags.refuse_cluster(address, target, wanted.executor)
    _flags.refuse_threads(wanted)
    if wanted.steps:
        raise UserError(f"{study}: got a fixed pipeline with `steps`, allowed: a study without; run it with `autoslim steps {study}`")
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
        _out.say(json.dumps(summary, indent=1, sort_keys=True))
    else:
        for line in answer_of(Study.read(folder, wanted.resolved_name(), storage), summary, folder):
            _out.say(line)
    if stop.reason == "interrupted":
        return 130
    return 0 if summary["feasible"] else 3


def answer_of(record: Any, summary: dict[str, Any], folder: Path) -> Iterator[str]:
    """The answer in words, what a reader must know besides, and where the files are."""
    from autoslim import report

    rows = report.front_rows(record)
    yield report.answer(summary, rows, report.context_of(record))
    yield from report.asides(summary, rows)
    chosen = summary["best"] or summary["closest"]
    if chosen:
        yield f"file:   {folder / chosen['model_file']}"
        yield f"report: {folder / 'report.html'}"


def interrupt(stop: object) -> None:
    """First Ctrl-C: finish with what there is. Second: stop now; the study stays whole and resumes.
    Raises KeyboardInterrupt at the second."""
    if stop.requested and stop.reason == "interrupted":
        raise KeyboardInterrupt
    stop.requested, stop.reason = True, "interrupted"
    print("\nautoslim: stopping; the front of what there is gets verified (Ctrl-C again stops at once)", file=sys.stderr)


def choose_watcher(quiet: bool) -> object:
    from autoslim.cli import _live

    if quiet:
        return _live.Silent()
    return _live.Live() if sys.stderr.isatty() else _live.Lines()
