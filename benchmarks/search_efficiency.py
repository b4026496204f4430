"""Strategies against each other on real networks: the same space, engine, rungs and recovery, real files, real time.

Run: ``python benchmarks/search_efficiency.py OUT [--tasks digits FILE.py ...] [--strategies frontier tpe+grid tpe ...] [--seeds 0 1 2 3 4]
[--trials 40] [--space NAME]``. A strategy named with ``+grid`` begins with the uniform grid, the fair rival of one that measures tables first; time counts
from the start of the command, tables included. Writes OUT/<task>-<strategy>-<seed>.csv, a row per evaluation (seconds, hypervolume of the
feasible on validation data), which recompute the table with ``--table``; prints final hypervolumes, and after how many evaluations, and
after how many seconds, a strategy reached what each rival had at its end. A finished run is not repeated.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import time
from pathlib import Path

from autoslim import report, tables
from autoslim.budget import feasible
from autoslim.candidate import Done
from autoslim.growth import Growth
from autoslim.study import Study

COLUMNS = ("evaluation", "seconds", "hypervolume")


def run(out: Path, task: str, strategy: str, seed: int, trials: int, space: str | None) -> None:
    """One search; its curve as a file."""
    name, _, grid = strategy.partition("+")
    place = out / "studies" / curve(out, task, strategy, seed).stem
    words = [
        sys.executable,
        "-m",
        "autoslim",
        "search",
        "--strategy",
        name,
        "--seed",
        str(seed),
        "--trials",
        str(trials),
        "--patience",
        "0",
    ]
    words += ["--grid" if grid else "--no-grid", "--verify", "1", "--quiet", "--out", str(place)]
    words += ["--task", task] if task != "digits" else []
    words += ["--space", space] if space else []
    begun = time.time()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{task} {strategy} {seed}: status {done.returncode}: {done.stderr[-500:]}")
    with curve(out, task, strategy, seed).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(points(place, begun))


def points(place: Path, begun: float) -> list[tuple[int, float, float]]:
    """(evaluation, seconds since ``begun``, hypervolume) in the order of ending."""
    study = Study.read(place)
    context = report.context_of(study)
    ends = {trial.number: trial.datetime_complete.timestamp() for trial in study._study.trials if trial.datetime_complete}
    growth, rows = Growth(tables.reference(context["objectives"])), []
    judged = [entry for entry in report.judged_entries(study, context) if entry.cached_from is None and entry.number in ends]
    for entry in sorted(judged, key=lambda entry: ends[entry.number]):
        fits = isinstance(entry.outcome, Done) and feasible(entry.outcome.violations)
        found = entry.outcome.measurement if fits else None
        where = tables.coordinates(found, context["untouched"], context["objectives"], context["metric_direction"]) if fits else None
        rows.append((len(rows), round(ends[entry.number] - begun, 2), round(growth.add(where), 6)))
    return rows


def curve(out: Path, task: str, strategy: str, seed: int) -> Path:
    return out / f"{Path(task).stem}-{strategy.replace('+', '_')}-{seed}.csv"


def table(out: Path, tasks: list[str], strategies: list[str], seeds: list[int]) -> None:
    """Read the curves back and print."""
    for task in tasks:
        curves = {}
        for strategy in strategies:
            for seed in seeds:
                if (path := curve(out, task, strategy, seed)).is_file():
                    with path.open(newline="") as file:
                        curves[strategy, seed] = [
                            (int(r["evaluation"]), float(r["seconds"]), float(r["hypervolume"])) for r in csv.DictReader(file)
                        ]
        print(
            f"\n{Path(task).stem}: final hypervolume per seed, mean; evaluations and seconds of {strategies[0]} to reach it (median of seeds)"
        )
        for strategy in strategies:
            finals = [rows[-1][2] for (name, _), rows in curves.items() if name == strategy]
            if not finals:
                continue
            reached = [
                next(((e, s) for e, s, v in curves[strategies[0], seed] if v >= curves[strategy, seed][-1][2]), None)
                for seed in seeds
                if (strategy, seed) in curves and (strategies[0], seed) in curves
            ]
            hit = [pair for pair in reached if pair]
            times = [rows[-1][1] for (name, _), rows in curves.items() if name == strategy]
            text = (
                f"{statistics.median(e for e, _ in hit):.0f} evaluations, {statistics.median(s for _, s in hit):.0f} s" if hit else "never"
            )
            values = " ".join(f"{value:.4f}" for value in finals)
            print(
                f"  {strategy:<16}{values}  mean {statistics.mean(finals):.4f}  in {statistics.mean(times):.0f} s; {text} ({len(hit)} of {len(reached)})"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["digits"])
    parser.add_argument(
        "--strategies", nargs="+", default=["frontier", "tpe+grid", "tpe", "nsga2+grid", "nsga2", "random", "greedy", "uniform"]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--space")
    parser.add_argument("--table", action="store_true", help="only print the table of the curves that are there")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.table:
        for seed in given.seeds:  # seeds outside, so that an early end leaves whole comparisons
            for task in given.tasks:
                for strategy in given.strategies:
                    if not curve(given.out, task, strategy, seed).is_file():
                        run(given.out, task, strategy, seed, given.trials, given.space)
                        print(f"{Path(task).stem} {strategy} {seed} done", flush=True)
    table(given.out, given.tasks, given.strategies, given.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
