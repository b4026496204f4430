"""``autoslim sweep``: several studies side by side over one cluster, and a table that compares them."""

import contextlib
import csv
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out


def add(app: typer.Typer) -> None:
    app.command(
        "sweep",
        help="Run several studies over one cluster, with fair shares and a common cache, and compare them. Running the same command again "
        "resumes. Example: autoslim sweep digits my_study.yaml --seeds 0,1",
    )(sweep)


def sweep(
    studies: Annotated[list[str], typer.Argument(help="Shipped names or YAML files.")],
    seeds: Annotated[str | None, typer.Option("--seeds", help="Run each study with each of these seeds: 0,1,2.")] = None,
    targets: Annotated[str | None, typer.Option("--targets", help="Run each study on each of these benches: laptop,board.")] = None,
    address: _flags.Address = None,
    slots: Annotated[int, typer.Option("--slots", min=0, help="Slots that the studies share; default: the cluster's cores.")] = 0,
    trials: Annotated[str | None, typer.Option("--trials", help="Evaluations per study, instead of what the studies say.")] = None,
    verify: Annotated[str | None, typer.Option("--verify", help="At most so many points of each front are verified.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the studies' folders.")] = Path("reports/sweep"),
    share: Annotated[bool, typer.Option("--cache/--no-cache", help="Studies of one network take over each other's measured files.")] = True,
) -> int:
    """Run what is not finished of the sweep, then compare; exit status 0, 3 if a study has no point within its limits, 130 after Ctrl-C, else the status of the study that failed."""
    from autoslim import comparing
    from autoslim import sweep as sweeps

    runs = sweeps.plan(studies, split(seeds), split(targets))
    extra = [*(("--trials", trials) if trials else ()), *(("--verify", verify) if verify else ())]
    extra += ["--cache", str(out / "cache")] if share else []
    out.mkdir(parents=True, exist_ok=True)
    with cluster(address) as (place, cores):
        ends = run_all(runs, out, [*extra, "--executor", "ray_tune", "--address", place], sweeps.shares(slots or cores, len(runs)))
    rows = [sweeps.row(run, out / run.name, ends.get(run.name)) for run in runs]
    with (out / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sweeps.COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    _out.say(sweeps.table(rows))
    _out.say(f"table: {out / 'comparison.csv'}\nreport: {comparing.write(out, rows)}")
    if 130 in ends.values():
        return 130
    return next((status for status in ends.values() if status not in (0, 3)), 3 if 3 in ends.values() else 0)


def split(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


@contextlib.contextmanager
def cluster(address: str | None) -> Iterator[tuple[str, int]]:
    """(address, cores) of the cluster; without an address, of a Ray of this machine that lives as long as the sweep."""
    from autoslim.executors import _cluster
    from autoslim.host import physical_cores

    ray = _cluster.connect(address or "", physical_cores(), 0, False, None)
    try:
        yield address or ray.get_runtime_context().gcs_address, max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def run_all(runs: list, out: Path, words: list[str], shares: list[int]) -> dict[str, int]:
    """Exit status by name; as many studies at a time as there are shares. Ctrl-C reaches every study, and no further one begins."""
    waiting, free, ends = list(runs), list(shares), {}
    busy: dict[subprocess.Popen, tuple[str, int]] = {}
    stopped: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        stopped.append(number)
        for process in busy:
            process.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        while busy or (waiting and not stopped):
            while waiting and free and not stopped:
                run, share = waiting.pop(0), free.pop(0)
                told = [*run.words, *words, "--workers", str(share), "--out", str(out / run.name), "--study-name", run.name, "--quiet"]
                busy[begin(out, run.name, told)] = run.name, share
                typer.echo(f"{run.name}: begun with {share} slots", err=True)
            done = next((process for process in busy if process.poll() is not None), None)
            if done is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    next(iter(busy)).wait(timeout=0.5)
                continue
            name, share = busy.pop(done)
            ends[name] = done.returncode
            free.append(share)
            typer.echo(f"{name}: ended with status {done.returncode}{last_line(out, name, done.returncode)}", err=True)
    finally:
        signal.signal(signal.SIGINT, before)
        for process in busy:
            process.kill()
    return ends


def begin(out: Path, name: str, words: list[str]) -> subprocess.Popen:
    """One `autoslim search`, in a session of its own, so that Ctrl-C reaches it once and through us; its words go to a log."""
    (out / name).mkdir(parents=True, exist_ok=True)
    with (out / name / "search.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "autoslim", "search", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict(os.environ),
        )


def last_line(out: Path, name: str, status: int) -> str:
    """What a run that failed said last."""
    if status in (0, 3, 130):
        return ""
    lines = (out / name / "search.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
