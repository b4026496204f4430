"""pareto.py against brute force and boxes worked by hand; which points tables.py has verified."""

import numpy as np
import pytest

from autoslim import pareto, shipping, tables
from autoslim.candidate import Done
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.study import Entry


def dominated(points, i):
    return any((other <= points[i]).all() and (other < points[i]).any() for other in points)


@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_front_is_brute_force_with_one_of_equal_rows(columns, seed):
    points = np.random.default_rng(seed).integers(0, 6, (30, columns)).astype(float)
    got = pareto.front(points)
    assert not any(dominated(points, i) for i in np.flatnonzero(got))
    kept = {tuple(row) for row in points[got]}
    assert kept == {tuple(points[i]) for i in range(len(points)) if not dominated(points, i)}
    assert len(kept) == got.sum(), "of equal rows one counts"


def test_front_of_nothing_and_of_one():
    assert pareto.front(np.zeros((0, 2))).shape == (0,)
    assert pareto.front(np.array([[3.0, 4.0]])).tolist() == [True]


def test_hypervolume_of_boxes_worked_by_hand():
    reference = np.array([4.0, 4.0])
    assert pareto.hypervolume(np.array([[1.0, 3.0], [3.0, 1.0]]), reference) == pytest.approx(3 * 1 + 1 * 3 - 1)
    assert pareto.hypervolume(np.array([[1.0, 3.0], [3.0, 1.0], [3.5, 3.5]]), reference) == pytest.approx(5), (
        "a dominated point adds nothing"
    )
    assert pareto.hypervolume(np.array([[5.0, 0.0]]), reference) == 0, "a point beyond the reference adds nothing"
    assert pareto.hypervolume(np.zeros((0, 2)), reference) == 0
    assert pareto.hypervolume(np.array([[1.0, 1.0, 2.0]]), np.array([2.0, 3.0, 4.0])) == pytest.approx(1 * 2 * 2)


def test_hypervolume_against_monte_carlo():
    generator = np.random.default_rng(0)
    points = generator.random((12, 3))
    drawn = generator.random((200_000, 3))
    share = np.zeros(len(drawn), dtype=bool)
    for point in points:
        share |= (point <= drawn).all(1)
    # a share of 200,000 draws has a standard error of at most 0.0011; 5 of them are allowed
    assert pareto.hypervolume(points, np.ones(3)) == pytest.approx(share.mean(), abs=0.006)


def test_knee_is_the_point_nearest_to_the_ideal_corner():
    assert pareto.knee(np.array([[0.0, 100.0], [0.2, 30.0], [1.0, 0.0]])) == 1
    assert pareto.knee(np.array([[0.0, 5.0], [1.0, 5.0]])) == 0, "an axis without a span does not count"
    assert pareto.knee(np.array([[7.0, 7.0]])) == 0


def entries_of(rows):
    """Done entries of rows (metric, ratio of time, ratio of bytes, gap or None)."""
    made = []
    for number, (metric, time, size, gap) in enumerate(rows):
        values = {"metric": metric, "latency_ms": 10 * time, "latency_ratio": time, "size_bytes": 1000 * size}
        found = Measurement({name: Value(float(value)) for name, value in values.items()}, {}, {} if gap is None else {"gap": gap})
        made.append(Entry(number, {}, "", {}, str(number), Done(found, {}, "", "", Recipe.of([]))))
    return made


UNTOUCHED = Measurement({"metric": Value(1.0), "latency_ms": Value(10.0), "latency_ratio": Value(1.0), "size_bytes": Value(1000.0)})


def verified(rows, most):
    chosen = tables.select_front(entries_of(rows), UNTOUCHED, ["metric", "latency_ms", "size_bytes"], "max", most)
    return [entry.number for entry in chosen]


def test_points_of_equal_metric_are_told_apart_by_their_gap():
    """0 dominates all others by the metric; of these, 1 to 3 are ever more faithful and costly, 4 is costly without being faithful."""
    rows = [(0.9, 0.1, 0.1, 5e-2), (0.9, 0.2, 0.2, 3e-3), (0.9, 0.21, 0.21, 2e-3), (0.9, 0.9, 0.9, 1e-3), (0.9, 0.4, 0.4, 4e-3)]
    assert verified(rows, 1) == [0]
    assert verified([(*row[:3], 10 * row[3]) for row in rows], 2) == [0, 1], "none is nearly lossless: the next layer"
    assert verified(rows, 2) == [0, 3], "the farthest first"
    assert verified(rows, 4) == [0, 1, 2, 3]
    assert verified(rows, 5) == [0, 1, 2, 3, 4]


def test_without_gaps_the_next_layers_follow():
    rows = [(0.9, 0.1, 0.1, None), (0.9, 0.4, 0.4, None), (0.9, 0.2, 0.2, None)]
    assert verified(rows, 2) == [0, 2]
    assert verified(rows, 9) == [0, 1, 2]


def test_what_adds_most_is_verified_first():
    """By hand: the volume of a point alone is the product of what it leaves of the reference; a point that the first dominates adds nothing."""
    rows = [(1.0, 0.9, 0.9, None), (0.995, 0.5, 0.4, None), (0.96, 0.51, 0.5, None), (0.97, 0.05, 0.06, None)]
    context = {"untouched": UNTOUCHED, "objectives": ["metric", "latency_ms", "size_bytes"], "metric_direction": "max"}
    order = [entry.number for entry in shipping.worthiest_first(entries_of(rows), context)]
    cost, lost = tables.REFERENCE_COST, tables.REFERENCE_DROP
    alone = [(lost - (1 - metric)) * (cost - time) * (cost - size) for metric, time, size, _ in rows]
    assert order[0] == int(np.argmax(alone)) == 3
    assert order[-1] == 2, "it lies behind the second"
    assert sorted(order) == [0, 1, 2, 3]
