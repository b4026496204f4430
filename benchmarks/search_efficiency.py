"""Strategies against each other on real networks: the same space, engine, rungs and recovery, real files, real time.

Run: ``python benchmarks/search_efficiency.py [--out FOLDER] [--tasks digits FILE.py ...] [--strategies frontier tpe+grid tpe ...]
[--seeds 0 1 2 3 4] [--trials 40] [--rivals N] [--space NAME] [--verify N] [--keep FOLDER]``. A strategy named with ``+grid`` begins with the
uniform grid, the fair rival of one that measures tables first; time counts from the start of the command, tables included.

Of each search it keeps FOLDER/<task>-<strategy>-<seed>.csv, a row per evaluation (seconds, drop, ratios of latency and bytes to the untouched
model's; empty where the end is not feasible), and ...-test.csv, its verified points on test data. Both open with the version of the code and
the state of the machine. A finished search is not repeated, so that a comparison may be collected over many calls. ``--table`` recomputes the
table from the files alone, in the box of efficiency_curves.py: hypervolumes at equal seconds, at equal evaluations, at the end and on test
data, and after how many evaluations the first strategy had what each rival had at its end.
"""

import argparse
import csv
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from efficiency_curves import COLUMNS, Curve, curve_of, equal, rows_of, test_volume

from autoslim import host, report, tables
from autoslim.budget import feasible
from autoslim.candidate import Done
from autoslim.study import Study

ROOT = Path(__file__).resolve().parent.parent
RESULTS, SPACE = ROOT / "benchmarks" / "results" / "efficiency", ROOT / "benchmarks" / "efficiency_space.yaml"
STRATEGIES = ("frontier", "tpe+grid", "nsga2+grid", "gp+grid", "tpe", "nsga2", "gp", "random", "greedy", "uniform")
#: objectives whose coordinates are drop, latency_ratio, size_ratio
OBJECTIVES = ["metric", "latency_ms", "size_bytes"]


def run(given: argparse.Namespace, task: str, strategy: str, seed: int, trials: int) -> None:
    """One search; its evaluations and its verified points as files. Its study stays where there is a folder to keep it in."""
    out = given.out
    name, _, grid = strategy.partition("+")
    with tempfile.TemporaryDirectory() as folder:
        place = (given.keep or Path(folder)) / searched(out, task, strategy, seed).stem
        words = [sys.executable, "-m", "autoslim", "search", "--strategy", name, "--seed", str(seed), "--trials", str(trials)]
        words += ["--patience", "0", "--grid" if grid else "--no-grid", "--quiet", "--out", str(place)]
        words += ["--task", task] if task != "digits" else []
        words += ["--space", given.space, "--verify", str(given.verify)]
        begun, remark = time.time(), conditions()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 3):
            raise SystemExit(f"{task} {strategy} {seed}: status {done.returncode}: {done.stderr[-500:]}")
        remark += f", {load()} after"
        verified = (place / "front.csv").read_text(encoding="utf-8")
        keep(tested(out, task, strategy, seed), remark, verified)
        keep(searched(out, task, strategy, seed), remark, table_of(evaluations(place, begun)))


def conditions() -> str:
    """The version of the code, the machine, and how busy it is, in words."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    version = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT).stdout.strip() or "unknown"
    return f"code {version}; {host.processors()} processors, {host.processor()}; {time.strftime('%Y-%m-%d')}; {load()} before"


def load() -> str:
    return f"load {os.getloadavg()[0]:.1f}"


def keep(path: Path, remark: str, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(f"# {remark}\n{text}", encoding="utf-8")
    part.replace(path)


def table_of(rows: list[tuple]) -> str:
    """CSV text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    return text.getvalue()


def evaluations(place: Path, begun: float) -> list[tuple]:
    """Rows of COLUMNS in the order of ending, seconds since ``begun``."""
    study = Study.read(place)
    context, rows = report.context_of(study), []
    ends = {trial.number: trial.datetime_complete.timestamp() for trial in study._study.trials if trial.datetime_complete}
    judged = [entry for entry in report.judged_entries(study, context) if entry.cached_from is None and entry.number in ends]
    for entry in sorted(judged, key=lambda entry: ends[entry.number]):
        fits = isinstance(entry.outcome, Done) and feasible(entry.outcome.violations)
        where = ["", "", ""]
        if fits:
            where = tables.coordinates(entry.outcome.measurement, context["untouched"], OBJECTIVES, context["metric_direction"])
            where = [f"{value:.6g}" for value in where]
        rows.append((len(rows) + 1, round(ends[entry.number] - begun, 2), *where))
    return rows


def searched(out: Path, task: str, strategy: str, seed: int) -> Path:
    return out / f"{Path(task).stem}-{strategy.replace('+', '_')}-{seed}.csv"


def tested(out: Path, task: str, strategy: str, seed: int) -> Path:
    path = searched(out, task, strategy, seed)
    return path.with_name(f"{path.stem}-test.csv")


def table(out: Path, tasks: list[str], strategies: list[str], seeds: list[int]) -> None:
    """Read the files back and print; of a task only seeds that every strategy with files has are compared."""
    for task in tasks:
        curves = {
            (strategy, seed): curve_of(rows_of(path))
            for strategy in strategies
            for seed in seeds
            if (path := searched(out, task, strategy, seed)).is_file()
        }
        there = [strategy for strategy in strategies if any(name == strategy for name, _ in curves)]
        common = [seed for seed in seeds if there and all((strategy, seed) in curves for strategy in there)]
        print(f"\n{Path(task).stem}: hypervolume (drop up to 5 %, logarithms of cost ratios), seeds {common}: one by one, and their mean")
        for strategy in there if common else []:
            print("\n".join(lines(out, task, strategy, there, common, curves)))


def lines(out: Path, task: str, strategy: str, there: list[str], seeds: list[int], curves: dict[tuple[str, int], Curve]) -> list[str]:
    """What is printed of one strategy."""
    shared = {seed: equal([curves[name, seed] for name in there]) for seed in seeds}
    mine = {seed: curves[strategy, seed] for seed in seeds}
    rows = {
        "equal seconds": [mine[seed].at(seconds=shared[seed][1]) for seed in seeds],
        "equal evaluations": [mine[seed].at(evaluations=shared[seed][0]) for seed in seeds],
        "at its end": [mine[seed].at() for seed in seeds],
        "on test data": [test_volume(rows_of(tested(out, task, strategy, seed))) for seed in seeds],
    }
    told = [
        f"{strategy}: {statistics.mean(len(curve.seconds) for curve in mine.values()):.0f} evaluations in "
        f"{statistics.mean(curve.seconds[-1] for curve in mine.values()):.0f} s"
    ]
    told += [
        f"  {name:<18} {' '.join(f'{value:.4f}' for value in values)}  mean {statistics.mean(values):.4f}" for name, values in rows.items()
    ]
    if strategy != there[0]:
        hits = [curves[there[0], seed].reached(mine[seed].at()) for seed in seeds]
        told.append(f"  {there[0]} had its end after {', '.join('never' if hit is None else str(hit) for hit in hits)} evaluations")
    return told


def main() -> int:
    """Run the searches that are missing in the folder, then print the table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tasks", nargs="+", default=["digits"])
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rivals", type=int, help="evaluations of all strategies but the first (default: --trials)")
    parser.add_argument("--space", default=str(SPACE))
    parser.add_argument("--verify", type=int, default=16)
    parser.add_argument("--keep", type=Path, help="a folder in which the studies stay")
    parser.add_argument("--table", action="store_true", help="only print the table of the files that are there")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        for seed in given.seeds:  # seeds outside, so that an early end leaves whole comparisons
            for task in given.tasks:
                for strategy in given.strategies:
                    if not searched(given.out, task, strategy, seed).is_file():
                        run(given, task, strategy, seed, given.trials if strategy == given.strategies[0] else given.rivals or given.trials)
                        print(f"{Path(task).stem} {strategy} {seed} done", flush=True)
    table(given.out, given.tasks, given.strategies, given.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
