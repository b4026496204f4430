"""How well a finished study's forecasts hold for configurations that it never evaluated, near its front and at random.

Run: ``python benchmarks/predictor_quality.py DIR [--near 30] [--random 30] [--task FILE] [--space NAME] [--threads N] [--csv FILE]``; DIR holds a study
of the strategy frontier, task and space as the study had them. Every held-out configuration is compressed, re-solved, shipped and
timed for real, all files in one rotation; forecasts come from the tables and results of the study alone. Prints per kind the share
within 10 %, the mean error, and the rank correlation, of latency, bytes and gap.
"""

import argparse
import csv
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoslim import report
from autoslim import task as tasks
from autoslim.candidate import Candidate, Done
from autoslim.contest import Contest
from autoslim.evaluator import Evaluator
from autoslim.hindsight import spearman
from autoslim.job import timed_threads
from autoslim.metrics import direction_of
from autoslim.search import job_of
from autoslim.spec import load_study
from autoslim.strategies.frontier import Member
from autoslim.study import Study

ROUNDS, SECONDS = 4, 0.4


def learned(study: Study, space: Any) -> Member:
    """The strategy with everything that the study recorded."""
    context = report.context_of(study)
    goals = [(name, direction_of(name, context["metric_direction"])) for name in context["objectives"]]
    member = Member(space, goals, (), 0, (study.fact("tables") or {}).get("tables"))
    for entry in report.judged_entries(study, context):
        member.tell(entry.number, entry.point, entry.memo, entry.outcome)
    return member


def held_out(member: Member, near: int, random: int, generator: np.random.Generator) -> list[tuple[str, tuple[int, ...]]]:
    """(kind, row) of configurations that the study did not try: one or two choices away from its front, and anywhere."""
    front = [one.row for one, _ in member._measured()]
    counts = member._counts
    found: dict[tuple[int, ...], str] = {}
    while len(found) < near + random:
        kind = "near" if len(found) < near else "random"
        row = list(front[generator.integers(len(front))]) if kind == "near" else [int(generator.integers(count)) for count in counts]
        for _ in range(generator.integers(1, 3) if kind == "near" else 0):
            place = int(generator.integers(len(row)))
            row[place] = int(generator.integers(counts[place]))
        row = tuple(int(i) for i in member._blank.canonical(np.array(row)[None])[0])
        if row not in member._rows:
            found.setdefault(row, kind)
    return [(kind, row) for row, kind in found.items()]


def main(words: Sequence[str] | None = None) -> int:
    """Measure configurations that the study never evaluated, and print how far its forecasts were off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--near", type=int, default=30)
    parser.add_argument("--random", type=int, default=30)
    parser.add_argument("--task")
    parser.add_argument("--space")
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args(words)
    told = {name: getattr(given, name) for name in ("task", "space") if getattr(given, name)}
    spec = load_study(None, {**told, "threads": str(timed_threads(given.folder))})
    study = Study.read(given.folder)
    rows = []
    with tempfile.TemporaryDirectory() as place:
        evaluator = Evaluator(job_of(spec, Path(place)), tasks.load(spec.task, spec.task_args, spec.max_samples, spec.part))
        prepared = evaluator.prepare()
        member = learned(study, prepared.space)
        forecast, _ = member._solved()
        for number, (kind, row) in enumerate(held_out(member, given.near, given.random, np.random.default_rng(0))):
            point = member._point(row)
            end = evaluator.evaluate(Candidate(number, point, prepared.space.decode(point)))
            if isinstance(end, Done):
                rows.append((kind, row, end, Path(place) / end.model_file))
        contest = Contest(evaluator.runtime, evaluator.job.threads, evaluator.latency_inputs)
        with evaluator.machine.alone():
            base = evaluator.untouched_file()
            rounds = [contest.tournament([path for *_, path in rows], base, SECONDS * len(rows)) for _ in range(ROUNDS)]
        timed = [contest.settle(tracks) for tracks in zip(*rounds, strict=True)]
        scale = prepared.untouched.get("latency_ms") / np.median([one.baseline_p50.value for one in timed])
        known = report.context_of(study)["untouched"].get("latency_ms") / prepared.untouched.get("latency_ms")
        table = np.array([row for _, row, *_ in rows])
        guess = {"latency_ms": forecast.ms(table), "size_bytes": forecast.bytes(table), "gap": forecast.gap(table)}
        truth = {  # times as ratio to the untouched file, at the study's speed of it
            "latency_ms": np.array([one.p50.value for one in timed]) * scale * known,
            "size_bytes": np.array([end.measurement.get("size_bytes") for _, _, end, _ in rows]),
            "gap": np.array([end.measurement.facts["gap"] for _, _, end, _ in rows]),
        }
    kinds = np.array([kind for kind, *_ in rows])
    print(f"{'kind':<8}{'quantity':<12}{'n':>4}{'within 10 %':>13}{'mean error':>12}{'rank corr.':>12}")
    for kind in ("near", "random"):
        for name in guess:
            mine, real = guess[name][kinds == kind], truth[name][kinds == kind]
            off = np.abs(mine / real - 1)
            print(f"{kind:<8}{name:<12}{len(real):>4}{(off <= 0.1).mean():>13.1%}{off.mean():>12.1%}{spearman(mine, real):>12.3f}")
    if given.csv:
        with given.csv.open("w", newline="") as file:
            out = csv.writer(file, lineterminator="\n")
            out.writerow(["kind", "row", *(f"{side}_{name}" for name in guess for side in ("predicted", "measured"))])
            for index, (kind, row, *_rest) in enumerate(rows):
                out.writerow([kind, json.dumps(row), *(f"{side[name][index]:.6g}" for name in guess for side in (guess, truth))])
    return 0


if __name__ == "__main__":
    sys.exit(main())
