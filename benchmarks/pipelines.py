"""A search against a fixed pipeline: the pipeline's end gives the budget (bytes, multiply-accumulates, time, drop), the search has to do better.

Run: ``python benchmarks/pipelines.py [STUDY ...] [--trials N] [--time 4m] [--space NAME] [--seeds 0 1 ...] [--out FOLDER]`` (default: iris digits_steps speech; a few
minutes each and seed; of several seeds, which search and pipeline have alike, also the means). All ends are scored on test data and timed in turn. Prints a table per study; exits with 1 where the search is not better: no more
bytes, less time, and a metric on test that is no lower, or (said so) lower by less than its paired interval; the gap says which of the two computes
more like the untouched network: mean distance of the outputs on test data, of class scores the Kullback-Leibler divergence, needs no labels. The drop that the search is held to is
the pipeline's, or LEAST if that is less: a few hundred samples do not tell drops apart that are smaller. What counts is the file that
the search recommends; the verified one within the budget that is nearest to the original of those within the interval of the best on validation data
(``autoslim pick --faithful``) is shown beside it. With ``--out`` the files stay, and the same command goes on where it ended.
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


class End(NamedTuple):
    """A file of one seed: pairs of its value and the pipeline's; ``parts`` None where the metric has none."""

    better: bool
    metrics: tuple[float, float]
    sizes: tuple[float, float]
    times: tuple[float, float]
    gaps: tuple[float, float]
    parts: tuple[np.ndarray, np.ndarray] | None


class Scored(NamedTuple):
    """A file on test data: its metric, its bytes, the metric's parts (n,) or None, and its gap to the untouched file."""

    metric: float
    size: int
    parts: np.ndarray | None
    gap: float


#: the file that counts first
FILES = ("recommended", "most faithful")
SHOWN = ("parameters", "compute", "dense", "file", "packed", "drop")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", default=["iris", "digits_steps", "speech"])
    parser.add_argument("--trials", default="24", help="evaluations of each search")
    parser.add_argument("--time", default="4m", help="of each search, verification included")
    parser.add_argument("--space", default="auto", help="what is searched")
    parser.add_argument("--seeds", nargs="+", default=["0"], help="of each search and of the pipeline beside it")
    parser.add_argument("--out", help="a folder for all files; default: a temporary one")
    told = parser.parse_args()
    limits = ["--trials", told.trials, "--time", told.time, "--space", told.space]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(told.out or folder)
        return max(all_seeds(name, limits, told.seeds, out) for name in told.studies)


def all_seeds(name: str, limits: list[str], seeds: list[str], out: Path) -> int:
    """One study with every seed, and where there are several the means of each file; 0 where the search is better."""
    ends = [against(name, [*limits, "--seed", seed], out / f"{name}-{seed}") for seed in seeds]
    if len(seeds) > 1 and all(ends):
        for label in FILES:
            print(f"\n{name}, seeds {' '.join(seeds)}, the {label} file beside the pipeline's, means:")
            print("\n".join(means([end[label] for end in ends])))
    return 0 if all(end and end[FILES[0]].better for end in ends) else 1


def means(found: list[End]) -> list[str]:
    """Lines on several seeds of one file."""
    parts = [end.parts for end in found]
    ours, theirs = (None if any(pair is None for pair in parts) else np.mean([pair[i] for pair in parts], 0) for i in (0, 1))
    gained = None if ours is None else statistics.paired_interval(ours, theirs)
    said = [f"  test metric {np.mean([end.metrics[0] for end in found]):.4f} for {np.mean([end.metrics[1] for end in found]):.4f}"]
    said[0] += f", difference {gained.value:+.4f} ({gained.low:+.4f} to {gained.high:+.4f}, samples paired)" if gained else ""
    for label, pairs in (("bytes", "sizes"), ("time", "times"), ("gap", "gaps")):
        ratios = [mine / other for mine, other in (getattr(end, pairs) for end in found)]
        said.append(f"  {label} as a share of the pipeline's: {', '.join(f'{ratio:.2f}' for ratio in ratios)}; mean {np.mean(ratios):.2f}")
    return said


def pipeline(name: str, folder: Path, seed: str) -> list[dict[str, Any]]:
    """The rows of ``autoslim steps`` with the search's seed; those of an earlier run where there are any."""
    known = folder / "steps.json"
    if not known.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        known.write_text(autoslim("steps", name, "--seed", seed, "--out", str(folder / "steps"), "--json"), encoding="utf-8")
    return json.loads(known.read_text(encoding="utf-8"))


def against(name: str, limits: list[str], folder: Path) -> dict[str, End] | None:
    """{file: end} of one study and seed; None where the search found no file within the budget."""
    study = spec.load_study(name, {})
    it = task.load(study.task, study.task_args, study.max_samples)
    files, out = folder / "steps", folder / "search"
    steps = pipeline(name, folder, limits[limits.index("--seed") + 1])
    first, last = steps[0]["counts"], steps[-1]["counts"]
    fixed = files / f"{len(steps) - 1}.onnx"
    print(f"\n{folder.name}, (before - after) / before after every step, on validation data")
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
    summary = told_by("search", *words, *budget, *limits, "--out", str(out), good=(0, 3))
    print(
        f"\n{name}: the pipeline ends at {last['file']:.0f} bytes and {last['dense']:.0f} multiply-accumulates; searched within both, its time, and its drop or {LEAST:g}"
    )
    if summary["best"] is None:
        print("the search found no file within the budget")
        return None
    most = told_by("pick", str(out), *budget, "--faithful")
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
    better = {label: beats(scores, times, label) for label in FILES}
    print("; ".join(f"the {label} file is {verdict}" for label, verdict in better.items()))
    return {label: end_of(scores, times, label, not better[label].startswith("NOT")) for label in FILES}


def end_of(scores: dict[str, Scored], times: dict[str, float], label: str, better: bool) -> End:
    """A file beside the pipeline's."""
    ours, theirs = scores[label], scores["pipeline"]
    parts = None if ours.parts is None or theirs.parts is None else (ours.parts, theirs.parts)
    pairs = ((ours.metric, theirs.metric), (ours.size, theirs.size), (times[label], times["pipeline"]), (ours.gap, theirs.gap))
    return End(better, *pairs, parts)


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


def told_by(*words: str, good: tuple[int, ...] = (0,)) -> Any:
    """What a command prints with ``--json``; ends the benchmark with what came instead."""
    text = autoslim(*words, "--json", good=good)
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        sys.exit(f"autoslim {' '.join(words)}: no JSON: {text[:500]!r}")


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
