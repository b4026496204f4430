"""What search_efficiency.py makes of its CSV files: the growth of a front, in a box that sees accuracy.

The box has three axes, the same for every strategy: the relative drop of the metric, what is better than the untouched model counting as
equal to it, up to DROP; and the natural logarithms of the ratios of latency and of bytes to the untouched model's, up to a tenth above it. So a
point that loses more than DROP counts for nothing, and halving a cost counts the same wherever it is halved.
"""

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoslim import pareto
from autoslim.growth import Growth

DROP, COST = 0.05, 1.1
CORNER = (DROP, math.log(COST), math.log(COST))
#: what names a point on validation data, and in the front.csv of a report
COLUMNS = ("evaluation", "seconds", "drop", "latency_ratio", "size_ratio")
TEST = ("drop_test", "latency_ratio", "size_ratio")


@dataclass(frozen=True)
class Curve:
    """One search: seconds since its command began, (evaluations,), and the hypervolume after each evaluation, (evaluations,)."""

    seconds: tuple[float, ...]
    volumes: tuple[float, ...]

    def at(self, evaluations: int | None = None, seconds: float = math.inf) -> float:
        """The hypervolume after so many evaluations and so many seconds."""
        known = [v for s, v in zip(self.seconds, self.volumes, strict=True) if s <= seconds][:evaluations]
        return known[-1] if known else 0.0

    def reached(self, volume: float) -> int | None:
        """After how many evaluations it had the volume; None where it never had."""
        return next((place + 1 for place, own in enumerate(self.volumes) if own >= volume), None)


def place(drop: float, latency_ratio: float, size_ratio: float) -> tuple[float, float, float]:
    """A point in the box."""
    return max(0.0, drop), math.log(latency_ratio), math.log(size_ratio)


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; lines that begin with # are remarks."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def curve_of(rows: Iterable[dict[str, str]]) -> Curve:
    """The curve of evaluations in the order of their ends; one without a ratio was rejected, failed or is not feasible."""
    growth, seconds = Growth(CORNER), []
    for row in rows:
        growth.add(place(*(float(row[name]) for name in COLUMNS[2:])) if row["latency_ratio"] else None)
        seconds.append(float(row["seconds"]))
    return Curve(tuple(seconds), tuple(growth.volumes))


def test_volume(rows: Iterable[dict[str, str]]) -> float:
    """Hypervolume of the verified feasible points of a front.csv, on test data."""
    points = [place(*(float(row[name]) for name in TEST)) for row in rows if row["feasible"] == "True"]
    return pareto.hypervolume(np.array(points).reshape(-1, len(CORNER)), np.array(CORNER))


def equal(curves: Sequence[Curve]) -> tuple[int, float]:
    """(evaluations, seconds) that every one of the searches had."""
    return min(len(curve.seconds) for curve in curves), min(curve.seconds[-1] for curve in curves)
