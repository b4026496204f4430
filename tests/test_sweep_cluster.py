"""A whole sweep as a user runs it: spaces and tasks on one bench of one cluster, a common cache, one report."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import rays

from autoslim.candidate import Done
from autoslim.executors import _cluster
from autoslim.study import Study

_cluster.quiet_ray()
pytestmark = pytest.mark.cluster
HERE = Path(__file__).parent
STUDY = "{{name: {name}, task: {task}, space: {space}, strategy: random, trials: 4, verify: 1, threads: 1}}\n"
TAKEN = "measured by another study of the same cache"


def the_studies(folder):
    """Three study files: two spaces for one task, and one for a task whose network has other weights."""
    tiny, other, bits = HERE / "tasks/tiny.py", folder / "other.py", folder / "bits.yaml"
    other.write_text(tiny.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    bits.write_text("techniques:\n  channels: {values: [1.0, 0.5]}\n  bits: {values: [32, 8], tie: all}\nrecovery: {distill_steps: 2}\n")
    told = {"a": (tiny, HERE / "tasks/plain.yaml"), "b": (other, bits), "c": (tiny, bits)}
    for name, (task, space) in told.items():
        (folder / f"{name}.yaml").write_text(STUDY.format(name=name, task=task, space=space))
    return [str(folder / f"{name}.yaml") for name in told]


def test_studies_share_a_cluster_a_bench_and_what_they_measured(tmp_path):
    """Two at a time; the third begins when one has ended and takes over what the first measured of the same network."""
    out = tmp_path / "sweep"
    with rays.cluster([{"num_cpus": 0, "resources": {"bench:board": 1}}, {"num_cpus": 2}]) as cluster:
        told = ["sweep", *the_studies(tmp_path), "--seeds", "7", "--targets", "board", "--address", cluster.address, "--out", str(out)]
        done = subprocess.run([sys.executable, "-m", "autoslim", *told], capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    first, alien, third = names = [f"{study}-board-seed7" for study in "abc"]
    with (out / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["study"] for row in rows] == names
    assert {row["status"] for row in rows} == {"done"}
    told = [line for line in done.stderr.splitlines() if "begun with 1 slots" in line or "ended with status 0" in line]
    assert ["begun" in line for line in told] == [True, True, False, True, False, False]  # two cores, two at a time

    studies = {name: Study.read(out / name) for name in names}
    assert all((study.fact("identity")["target"], study.fact("spec")["seed"]) == ("board", 7) for study in studies.values())
    ends = {name: {one.key: one for one in study.entries() if isinstance(one.outcome, Done)} for name, study in studies.items()}
    taken = {name: [one for one in found.values() if TAKEN in one.outcome.notes] for name, found in ends.items()}
    assert taken[third]
    assert not taken[alien]
    for one in taken[third]:
        source = ends[first][one.key].outcome
        assert (one.outcome.sha256, one.outcome.measurement) == (source.sha256, source.measurement)

    text = (out / "comparison.md").read_text()
    assert f"## {first}, {third}" in text  # like with like, whatever else there is
    assert f"## {alien}" not in text
    assert all(f"]({name}/report.html)" in text and (out / name / "report.html").is_file() for name in names)
    assert (out / "compare-1.html").is_file()
