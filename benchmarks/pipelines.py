"""A search against a fixed pipeline: the pipeline's end gives the budget (bytes, multiply-accumulates, time, drop), the search has to do better.

Run: ``python benchmarks/pipelines.py [STUDY ...] [--trials N] [--time 4m] [--seed N] [--out FOLDER]`` (default: iris digits_steps speech; a few
minutes each). All ends are scored on test data and timed in turn. Prints a table per study; exits with 1 where the search is not better: no more
bytes, less time, and a metric on test that is no lower, or (said so) lower by less than its paired interval; the gap says which of the two computes
more like the untouched network: mean distance of the outputs on test data, of class scores the Kullback-Leibler divergence, needs no labels. The drop that the search is held to is
the pipeline's, or LEAST if that is less: a few hundred samples do not tell drops apart that are smaller. What counts is the verified file within
the budget that is nearest to the original of those within one standard error of the best on validation data (``autoslim pick --faithful``); the file
that the search recommends, the cheapest of those, is shown beside it. With ``--out`` the files stay, and the same command goes on where it ended.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from autoslim import plugins, spec, statistics, task
from autoslim.contest import Contest
from autoslim.distances import gap
from autoslim.inputs import batch_size
from autoslim.machine import Machine

SECONDS, ROUNDS = 1.0, 6
#: the least drop that a search is held to, in the metric's unit
LEAST = 0.005


class Scored(NamedTuple):
    """A file on test data: its metric, its bytes, the metric's parts (n,) or None, and its gap to the untouched file."""

    metric: float
    size: int
    parts: np.ndarray | None
    gap: float


SHOWN = ("parameters", "compute", "dense", "file", "packed", "drop")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", default=["iris", "digits_steps", "speech"])
    parser.add_argument("--trials", default="24", help="evaluations of each search")
    parser.add_argument("--time", default="4m", help="of each search, verification included")
    parser.add_argument("--seed", default="0", help="of each search and of the pipeline")
    parser.add_argument("--out", help="a folder for all files; default: a temporary one")
    told = parser.parse_args()
    limits = ["--trials", told.trials, "--time", told.time, "--seed", told.seed]
    with tempfile.TemporaryDirectory() as folder:
        return max(against(name, limits, Path(told.out or folder) / name) for name in told.studies)


def pipeline(name: str, folder: Path, seed: str) -> list[dict[str, Any]]:
    """The rows of ``autoslim steps`` with the search's seed; those of an earlier run where there are any."""
    known = folder / "steps.json"
    if not known.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        known.write_text(autoslim("steps", name, "--seed", seed, "--out", str(folder / "steps"), "--json"), encoding="utf-8")
    return json.loads(known.read_text(encoding="utf-8"))


def against(name: str, limits: list[str], folder: Path) -> int:
    """One study; 0 where the search is better."""
    study = spec.load_study(name, {})
    it = task.load(study.task, study.task_args, study.max_samples)
    files, out = folder / "steps", folder / "search"
    steps = pipeline(name, folder, limits[limits.index("--seed") + 1])
    first, last = steps[0]["counts"], steps[-1]["counts"]
    fixed = files / f"{len(steps) - 1}.onnx"
    print(f"\n{name}, (before - after) / before after every step, on validation data")
    print(f"{'':<26}" + "".join(f"{rate:>12}" for rate in SHOWN))
    for row in steps[1:]:
        print(f"{row['name'][:25]:<26}" + "".join(f"{row['rates'][rate]:>12.2%}" for rate in SHOWN), flush=True)
    budget = [
        "--budget-mb",
        f"{last['file'] / 1e6:.6f}",
        *(["--budget-macs", str(last["dense"])] if last["dense"] < first["dense"] else []),
        *("--budget-ms", f"{100 * (1 - steps[-1]['rates']['time']):.4f}%"),
        *("--max-drop", f"{max(LEAST, first['drop'] - last['drop'])!r}"),
    ]
    samples = [] if study.max_samples is None else ["--max-samples", str(study.max_samples)]
    words = [
        "--task",
        study.task,
        *samples,
        *(word for pair in study.task_args.items() for word in ("--task-arg", "=".join(pair))),
    ]
    summary = json.loads(autoslim("search", *words, *budget, *limits, "--out", str(out), "--json", good=(0, 3)))
    print(
        f"\n{name}: the pipeline ends at {last['file']:.0f} bytes and {last['dense']:.0f} multiply-accumulates; searched within both, its time, and its drop or {LEAST:g}"
    )
    if summary["best"] is None:
        print("the search found no file within the budget")
        return 1
    most = json.loads(autoslim("pick", str(out), *budget, "--faithful", "--json"))
    rows = {
        "untouched": files / "0.onnx",
        "pipeline": fixed,
        "recommended": out / summary["best"]["model_file"],
        "most faithful": out / most["model_file"],
    }
    scores = {label: score(it, path, rows["untouched"]) for label, path in rows.items()}
    times = timed(it, rows, study.resolved_threads())
    print(
        f"{'':<14}{'test metric':>12}{'bytes':>12}{'time':>10}{'gap':>10}  (time as a share of untouched; metric less the pipeline's, paired interval)"
    )
    for label in rows:
        one = scores[label]
        print(f"{label:<14}{one.metric:>12.4f}{one.size:>12}{times[label]:>10.3f}{one.gap:>10.2g}  {apart(scores, label)}")
    better = {label: beats(scores, times, label) for label in ("recommended", "most faithful")}
    print("; ".join(f"the {label} file is {verdict}" for label, verdict in better.items()))
    return 1 if better["most faithful"].startswith("NOT") else 0


def apart(scores: dict[str, Scored], label: str) -> str:
    """A file's metric less the pipeline's on the same samples, with a paired interval; empty where the metric has no parts."""
    found = difference(scores, label)
    return "" if found is None or label == "pipeline" else f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def difference(scores: dict[str, Scored], label: str) -> Any:
    """The interval of that, None where the metric has no parts."""
    ours, theirs = scores[label].parts, scores["pipeline"].parts
    return None if ours is None or theirs is None else statistics.paired_interval(ours, theirs)


def beats(scores: dict[str, Scored], times: dict[str, float], label: str) -> str:
    """Whether a file is better than the pipeline's: no more bytes, less time, and a metric that is no lower, or no lower beyond doubt."""
    ours, theirs = scores[label], scores["pipeline"]
    if ours.size > theirs.size or times[label] >= times["pipeline"]:
        return "NOT better: it costs more"
    found = difference(scores, label)
    if ours.metric >= theirs.metric:
        return "better"
    if found is None or found.high < 0:
        return "NOT better: its metric is lower"
    return "cheaper" + (" and nearer to the untouched network" if ours.gap < theirs.gap else "") + ", its metric lower within the interval"


def autoslim(*words: str, good: tuple[int, ...] = (0,)) -> str:
    """Standard output of a command; ends the benchmark with its message where it fails."""
    done = subprocess.run([sys.executable, "-m", "autoslim", *words], capture_output=True, text=True, check=False)
    if done.returncode not in good:
        sys.exit(f"autoslim {' '.join(words)}: status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def score(it: Any, path: Path, untouched: Path) -> Scored:
    """A file on test data."""
    runtime = plugins.load("runtimes", "onnxruntime_cpu")
    run, original = runtime.open(path, 1).run, runtime.open(untouched, 1).run
    split = "test" if it.has("test") else "val"
    found = it.score(run, split, run)
    gaps = np.array([(float(gap(run(inputs), original(inputs))), batch_size(inputs)) for inputs, _ in it.batches(split)])
    return Scored(next(iter(found.values.values())), path.stat().st_size, found.per_unit, float(np.average(gaps[:, 0], weights=gaps[:, 1])))


def timed(it: Any, rows: dict[str, Path], threads: int) -> dict[str, float]:
    """Time of each file as a share of the untouched one's, all in one rotation."""
    contest = Contest(plugins.load("runtimes", "onnxruntime_cpu"), threads, it.latency_inputs())
    paths = list(rows.values())
    with Machine().alone():
        rounds = list(zip(*(contest.tournament(paths, paths[0], SECONDS * len(paths)) for _ in range(ROUNDS)), strict=True))
    return {label: contest.settle(own).ratio.value for label, own in zip(rows, rounds, strict=True)}


if __name__ == "__main__":
    sys.exit(main())
