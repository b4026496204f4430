"""Whole searches on a cluster, as a user runs them: the same candidates as locally, through a killed driver, times from the bench."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rays

from autoslim.executors import _cluster

_cluster.quiet_ray()
pytestmark = pytest.mark.cluster
HERE = Path(__file__).parent
TASK, PLAIN = str(HERE / "tasks/tiny.py"), str(HERE / "tasks/plain.yaml")
COMMON = ["search", "--task", TASK, "--space", PLAIN, "--strategy", "random", "--trials", "8", "--threads", "1", "--verify", "1"]


def autoslim(*words):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, timeout=300, check=False)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def keys(out):
    return [row["key"] for row in rows(out / "trials.csv")]


def test_one_slot_asks_what_one_worker_asks(tmp_path):
    """Same study, same seed, one worker here and one slot on Ray: the same trials with the same ends and the same files."""
    here, there = tmp_path / "here", tmp_path / "there"
    for out, executor in ((here, "local"), (there, "ray_tune")):
        done = autoslim(*COMMON, "--workers", 1, "--executor", executor, "--out", out, "--quiet")
        assert done.returncode == 0, done.stderr
    exact = ("number", "key", "label", "end", "metric_val", "size_bytes", "macs", "params", "cached_from")
    left, right = ([{name: row[name] for name in exact} for row in rows(out / "trials.csv")] for out in (here, there))
    assert left == right
    for row in rows(there / "front.csv"):
        assert (there / row["model_file"]).stat().st_size == int(row["size_bytes"])
    assert json.loads((there / "workers.json").read_text())["slots"]


def test_a_killed_driver_goes_on_with_the_same_command(tmp_path):
    """kill -9 in the middle of a search on two nodes and a bench; the same command finishes it: nothing lost, doubled or left running."""
    out = tmp_path / "out"
    bench = {"num_cpus": 0, "resources": {"bench:board": 1}}
    with rays.cluster([bench, {"num_cpus": 1}, {"num_cpus": 1}]) as cluster:
        told = [*COMMON, "--executor", "ray_tune", "--address", cluster.address, "--target", "board", "--out", str(out)]
        driver = subprocess.Popen([sys.executable, "-m", "autoslim", *told], stderr=subprocess.PIPE, text=True)
        seen = 0
        for line in driver.stderr:
            seen += "trial" in line and "hypervolume" in line
            if seen >= 2:
                break
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        assert seen == 2
        before = json.loads((out / "workers.json").read_text())
        done = autoslim(*told, "--quiet")
        status = autoslim("status", out)
    assert done.returncode == 0, done.stderr
    trials = rows(out / "trials.csv")
    assert [int(row["number"]) for row in trials] == list(range(len(trials)))
    assert {row["end"] for row in trials} <= {"done", "failed", "rejected"}
    lost = [row["key"] for row in trials if row["reason"] == "interrupted"]
    ended = [row["key"] for row in trials if row["end"] == "done" and not row["cached_from"]]
    assert lost
    assert set(lost) <= set(ended)
    assert len(ended) == len(set(ended))
    after = json.loads((out / "workers.json").read_text())
    assert {row["name"] for row in before["slots"]} == {row["name"] for row in after["slots"]} == {"bench", "slot-0", "slot-1"}
    assert len({row["node"] for row in after["slots"]}) == 3
    assert next(row for row in after["slots"] if row["name"] == "bench")["items"] >= 2  # the untouched model and times
    assert len(ended) == 8  # 2 widths x 2 depths x 2 bit-widths: all that an undisturbed search finds
    assert status.returncode == 0, status.stderr
    assert "bench" in status.stdout


def test_a_worker_joins_as_a_bench_and_leaves_on_request():
    """`autoslim worker --target` brings the resource of its device and no cores; Ctrl-C ends it and all its processes."""
    with rays.cluster([]) as cluster:
        ray = _cluster.connect(cluster.address, 0, 0, False, None)
        told = [sys.executable, "-m", "autoslim", "worker", "--target", "board", "--address", cluster.address]
        worker = subprocess.Popen(told, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert "bench board" in worker.stderr.readline()
            joined = wait_for(lambda: [node for node in _cluster.nodes(ray) if "bench:board" in node["Resources"]])
            assert joined[0]["Resources"].get("CPU", 0) == 0
            assert _cluster.bench_of(ray, "") == "bench:board"
            os.killpg(worker.pid, signal.SIGINT)
            assert worker.wait(60) == 130
            assert wait_for(lambda: not [node for node in _cluster.nodes(ray) if "bench:board" in node["Resources"]])
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.stderr.close()


def wait_for(found, seconds=90):
    stop = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < stop
        time.sleep(0.5)
    return value


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--executor", "ray_tune", "--address", "ray://host:1"], ["--address", "ray://host:1", "host:port"]),
        (["--executor", "ray_tune", "--target", "board"], ["--target", "'board'", "needs --address"]),
        (["--executor", "ray_tune", "--address", "127.0.0.1:1"], ["no Ray cluster answers at '127.0.0.1:1'", "docs/cluster.md"]),
        (["--address", "auto"], ["executors local", "unknown option 'address'"]),
    ],
)
def test_wrong_words_about_a_cluster_are_answered_in_one_line(tmp_path, words, parts):
    done = autoslim(*COMMON, *words, "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr
