"""benchmarks/efficiency_curves.py: the box sees accuracy, equal comparisons are equal, and files are read back as they were written."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import studies
from autoslim import pareto, report
from autoslim.candidate import Done

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import efficiency_curves as curves


def row(number, seconds, drop="", latency="", size=""):
    return dict(zip(curves.COLUMNS, (str(v) for v in (number, seconds, drop, latency, size)), strict=True))


def box(drop, latency, size):
    """The volume of one point, by hand."""
    return (0.05 - drop) * (math.log(1.1) - math.log(latency)) * (math.log(1.1) - math.log(size))


def test_the_volume_of_one_point_is_the_product_of_its_sides_and_a_better_metric_counts_as_equal():
    found = curves.curve_of([row(1, 2.5, 0.01, 0.5, 0.25)])
    assert found.volumes[0] == pytest.approx(box(0.01, 0.5, 0.25))
    assert curves.curve_of([row(1, 1, -0.02, 0.5, 0.25)]).volumes[0] == pytest.approx(box(0.0, 0.5, 0.25))


def test_a_point_that_loses_more_than_the_box_counts_for_nothing_and_half_the_drop_counts_much():
    assert curves.curve_of([row(1, 1, 0.06, 0.1, 0.1)]).volumes == (0.0,)
    near, far = (curves.curve_of([row(1, 1, drop, 0.5, 0.5)]).volumes[0] for drop in (0.01, 0.03))
    assert near == pytest.approx(2 * far)


def test_what_is_not_feasible_takes_its_turn_and_adds_nothing():
    found = curves.curve_of([row(1, 1.0), row(2, 2.0, 0.0, 0.5, 0.5), row(3, 9.0, 0.0, 0.25, 0.5)])
    assert found.volumes == pytest.approx((0.0, box(0, 0.5, 0.5), box(0, 0.25, 0.5)))
    assert [found.at(seconds=s) for s in (0.5, 1.5, 2.0, 10)] == pytest.approx([0.0, 0.0, box(0, 0.5, 0.5), box(0, 0.25, 0.5)])
    assert found.at(evaluations=2) == pytest.approx(box(0, 0.5, 0.5))
    assert found.reached(box(0, 0.5, 0.5)) == 2
    assert found.reached(1.0) is None


def test_what_is_equal_is_the_least_of_all():
    short = curves.curve_of([row(1, 5.0, 0, 0.5, 0.5)])
    long = curves.curve_of([row(1, 1.0), row(2, 3.0)])
    assert curves.equal([short, long]) == (1, 3.0)


def test_remarks_are_skipped_and_only_feasible_points_count_on_test_data(tmp_path):
    path = tmp_path / "x-test.csv"
    path.write_text("# code abc\nfeasible,drop_test,latency_ratio,size_ratio\nTrue,0.01,0.5,0.5\nFalse,0.0,0.1,0.1\n")
    assert curves.test_volume(curves.rows_of(path)) == pytest.approx(box(0.01, 0.5, 0.5))
    path.write_text("# code abc\nfeasible,drop_test,latency_ratio,size_ratio\n")
    assert curves.test_volume(curves.rows_of(path)) == 0.0


def test_evaluations_of_a_study_become_rows_that_give_its_volume_and_its_table_again(tmp_path, capsys):
    import search_efficiency as script

    study = studies.make(tmp_path / "study", 40, max_drop=(0.05, True))
    rows = script.evaluations(tmp_path / "study", 0.0)
    kept = [entry for entry in study.entries() if entry.cached_from is None]
    assert [row[0] for row in rows] == list(range(1, len(kept) + 1))
    feasible = [entry for entry in kept if isinstance(entry.outcome, Done) and all(v <= 1e-9 for v in entry.outcome.violations.values())]
    assert 0 < len(feasible) < len(kept)
    assert sum(row[2] != "" for row in rows) == len(feasible)
    points = []
    for entry in feasible:
        found = entry.outcome.measurement
        ratios = [found.get("latency_ms") / studies.BASE_MS, found.get("size_bytes") / studies.BASE_BYTES]
        points.append([max(0, 1 - found.get("metric") / studies.BASE_METRIC), *map(math.log, ratios)])
    want = pareto.hypervolume(np.array(points), np.array(curves.CORNER))
    report.write(study, tmp_path / "out")
    for seed in (0, 1):
        script.keep(script.searched(tmp_path, "digits", "tpe+grid", seed), "code abc", script.table_of(rows))
        script.keep(script.tested(tmp_path, "digits", "tpe+grid", seed), "code abc", (tmp_path / "out" / "front.csv").read_text())
    found = curves.curve_of(curves.rows_of(tmp_path / "digits-tpe_grid-0.csv"))
    assert found.at() == pytest.approx(want, rel=1e-3)
    script.table(tmp_path, ["digits"], ["frontier", "tpe+grid"], [0, 1, 2])
    printed = capsys.readouterr().out
    assert "seeds [0, 1]" in printed
    assert f"at its end         {found.at():.4f} {found.at():.4f}  mean {found.at():.4f}" in printed


def test_conditions_name_the_code_and_the_load():
    import search_efficiency as script

    assert "; " in script.conditions()
    assert script.conditions().startswith("code ")
    assert "load " in script.conditions()
