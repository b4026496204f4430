"""Whole searches on a cluster, as a user runs them: the same candidates as locally, through a killed driver, times from the bench."""

import csv
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import disks
import psutil
import pytest
import rays
import yaml

from autoslim.errors import UserError
from autoslim.executors import _cluster
from autoslim.executors._hands import ROOM
from autoslim.executors.ray_tune import Member

_cluster.quiet_ray()
pytestmark = pytest.mark.cluster
HERE = Path(__file__).parent
TASK, PLAIN = str(HERE / "tasks/tiny.py"), str(HERE / "tasks/plain.yaml")
COMMON = ["search", "--space", PLAIN, "--strategy", "random", "--trials", "8", "--threads", "1", "--verify", "1"]
#: limits that some recipes break before any file exists and some with their file; none of them is judged by a clock
LIMITS = ["--budget-macs", "20000", "--budget-mb", "0.0032", "--max-drop", "0.9"]
#: the tiny task with a bias that gives each class about as many samples, so that compression costs accuracy
CENTRED = """    net = Tiny().eval()
    with torch.no_grad():
        net.head.bias -= net(torch.randn(64, 1, 8, 8)).mean(0)
    return net
"""


def autoslim(*words):
    return subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], capture_output=True, text=True, timeout=300, check=False)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def keys(out):
    return [row["key"] for row in rows(out / "trials.csv")]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A search's words, but for where it runs."""
    task = tmp_path_factory.mktemp("task") / "centred.py"
    task.write_text(Path(TASK).read_text().replace("    return Tiny()\n", CENTRED))
    return [*COMMON, *LIMITS, "--task", str(task)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory, plain):
    """The trials of an undisturbed search with one worker on this machine."""
    out = tmp_path_factory.mktemp("calm")
    done = autoslim(*plain, "--workers", 1, "--executor", "local", "--out", out, "--quiet")
    assert done.returncode == 0, done.stderr
    return rows(out / "trials.csv")


def told(trials, *names):
    """What no clock decides of each row."""
    names = ("key", "end", "rung", "reason", "violations", "metric_val", "size_bytes", "macs", "params", *names)
    return [{name: row[name] for name in names} for row in trials]


def exact(trials):
    """{key: what no clock decides} of all that was evaluated."""
    return {row["key"]: row for row in told(trials, "cached_from") if row["end"] in ("done", "rejected") and not row["cached_from"]}


def front(trials):
    """Keys of what nothing beats in metric and size, by brute force; times are left out, since no two runs have the same."""
    found = {key: (-float(row["metric_val"]), int(row["size_bytes"])) for key, row in exact(trials).items() if row["end"] == "done"}
    return {
        key
        for key, mine in found.items()
        if not any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in found.values())
    }


def test_one_slot_asks_and_rejects_what_one_worker_does(tmp_path, plain, calm):
    """Same study, same seed, one worker here and one slot on Ray: the same trials with the same ends, constraints, reasons and files."""
    there = tmp_path / "there"
    done = autoslim(*plain, "--workers", 1, "--executor", "ray_tune", "--out", there, "--quiet")
    assert done.returncode == 0, done.stderr
    more = ("number", "label", "detail", "feasible", "cached_from", "summary", "recipe", "point")
    assert told(rows(there / "trials.csv"), *more) == told(calm, *more)
    rejected = [row for row in calm if row["end"] == "rejected"]
    assert {row["rung"] for row in rejected} == {"predicted", "timed"}
    assert all(set(json.loads(row["violations"])) <= {"macs", "mb", "max_drop"} and row["feasible"] == "False" for row in rejected)
    for row in rows(there / "front.csv"):
        assert (there / row["model_file"]).stat().st_size == int(row["size_bytes"])
    assert json.loads((there / "workers.json").read_text())["slots"]


def test_a_killed_driver_goes_on_with_the_same_command(tmp_path, plain, calm):
    """kill -9 in the middle of a search on two nodes and a bench; the same command finishes it: nothing lost, doubled or left running, and
    the front is that of a search that nobody disturbed."""
    out = tmp_path / "out"
    bench = {"num_cpus": 0, "resources": {"bench:board": 1}}
    with rays.cluster([bench, {"num_cpus": 1}, {"num_cpus": 1}]) as cluster:
        command = [*plain, "--executor", "ray_tune", "--address", cluster.address, "--target", "board", "--out", str(out)]
        driver = subprocess.Popen([sys.executable, "-m", "autoslim", *command], stderr=subprocess.PIPE, text=True)
        seen = 0
        for line in driver.stderr:
            seen += "trial" in line and "hypervolume" in line
            if seen >= 2:
                break
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        assert seen == 2
        before = json.loads((out / "workers.json").read_text())
        done = autoslim(*command, "--quiet")
        status = autoslim("status", out)
    assert done.returncode == 0, done.stderr
    trials = rows(out / "trials.csv")
    assert [int(row["number"]) for row in trials] == list(range(len(trials)))
    assert {row["end"] for row in trials} <= {"done", "failed", "rejected"}
    lost = [row["key"] for row in trials if row["reason"] == "interrupted"]
    ended = [row["key"] for row in trials if row["end"] in ("done", "rejected") and not row["cached_from"]]
    assert lost
    assert set(lost) <= set(ended)
    assert len(ended) == len(set(ended))
    after = json.loads((out / "workers.json").read_text())
    assert {row["name"] for row in before["slots"]} == {row["name"] for row in after["slots"]} == {"bench", "slot-0", "slot-1"}
    assert len({row["node"] for row in after["slots"]}) == 3
    assert next(row for row in after["slots"] if row["name"] == "bench")["items"] >= 2  # the untouched model and times
    assert exact(trials) == exact(calm)
    assert front(trials) == front(calm)
    assert 2 <= len(front(calm)) < len(ended) == 8  # 2 widths x 2 depths x 2 bit-widths
    assert status.returncode == 0, status.stderr
    assert "2 slots of 2 wanted on" in status.stdout  # the bench is told apart
    assert all(row["name"] in status.stdout and f"{row['utilisation']:.0%} busy" in status.stdout for row in after["slots"])
    assert any(row["utilisation"] > 0 for row in after["slots"])
    assert "nobody writes it now" in status.stdout


def test_a_worker_whose_disk_is_full_leaves_the_work_to_the_others(tmp_path, plain, calm):
    """One of two workers keeps its files on a disk that is filled in the middle of a search, until its end."""
    out, store = tmp_path / "out", 100 * 2**20
    with disks.small(tmp_path / "disk") as disk, rays.cluster([{"num_cpus": 1}], resources={"bench:board": 1}) as cluster:
        full = cluster.add_node(num_cpus=1, object_store_memory=store, env_vars={"AUTOSLIM_SLOTS": str(disk / "slots")}).node_id[:8]
        command = [*plain, "--executor", "ray_tune", "--address", cluster.address, "--target", "board", "--out", str(out)]
        driver = subprocess.Popen([sys.executable, "-m", "autoslim", *command], stderr=subprocess.PIPE, text=True)
        for line in driver.stderr:
            if "trial" in line and "hypervolume" in line and not (disk / "filler").exists():
                assert list((disk / "slots").glob("slot-*/worker.log"))  # it works there
                disks.fill(disk)
        assert driver.wait() == 0
        assert shutil.disk_usage(disk).free < ROOM
    state = json.loads((out / "workers.json").read_text())
    items = {row["node"]: row["items"] for row in state["slots"] if row["work"]}
    assert items.pop(full) <= 2  # what ended before, and what it had just then
    assert max(items.values()) >= 5, state
    assert state["counts"]["put"] == state["counts"]["ended"]
    trials = rows(out / "trials.csv")
    assert [int(row["number"]) for row in trials] == list(range(len(trials)))
    assert {row["end"] for row in trials} == {"done", "rejected"}
    assert exact(trials) == exact(calm)
    assert len(exact(trials)) == 8
    assert front(trials) == front(calm)


def test_the_documented_launcher_and_manifest_are_such_as_ray_takes():
    import ray
    from ray.autoscaler._private.util import prepare_config, validate_config

    blocks = re.findall(r"```yaml\n(.*?)```", (HERE.parent / "docs/cluster.md").read_text(), re.DOTALL)
    launcher = next(told for told in map(yaml.safe_load, blocks) if "cluster_name" in told)
    validate_config(prepare_config(launcher))
    kinds = launcher["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    assert [name.partition(":")[0] for name in kinds["bench"]["resources"]] == ["CPU", "bench"]
    manifest = next(told for told in map(yaml.safe_load, blocks) if told.get("kind") == "RayCluster")["spec"]
    assert manifest["rayVersion"] == ray.__version__
    for group in (manifest["headGroupSpec"], *manifest["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group.get("rayStartParams", {}).values())
        env = {one["name"] for one in group["template"]["spec"]["containers"][0]["env"]}
        assert env == {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN"}
    bench = manifest["workerGroupSpecs"][1]["rayStartParams"]
    assert json.loads(json.loads(bench["resources"])) == {"bench:metal": 1}


def test_a_worker_joins_as_a_bench_and_leaves_on_request():
    """`autoslim worker --target` brings the resource of its device and no cores; Ctrl-C ends it and all its processes. One with another
    token is refused."""
    with rays.cluster([]) as cluster:
        ray = _cluster.connect(cluster.address, 0, 0, False, None)
        told = [sys.executable, "-m", "autoslim", "worker", "--target", "board", "--address", cluster.address]
        wrong = [word if word != "board" else "stranger" for word in told]
        stranger = subprocess.Popen(
            wrong, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | {"RAY_AUTH_TOKEN": "f" * 64}
        )
        worker = subprocess.Popen(told, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            assert "bench board" in worker.stderr.readline()
            joined = wait_for(lambda: [node for node in _cluster.nodes(ray) if "bench:board" in node["Resources"]])
            assert joined[0]["Resources"].get("CPU", 0) == 0
            assert _cluster.bench_of(ray, "") == "bench:board"
            os.killpg(worker.pid, signal.SIGINT)
            assert worker.wait(150) == 130
            assert wait_for(lambda: not [node for node in _cluster.nodes(ray) if "bench:board" in node["Resources"]])
            refused = stranger.communicate(timeout=90)[1]
            assert stranger.returncode == 2
            assert "InvalidAuthToken" in refused
            assert refused.strip().splitlines()[-1].startswith("autoslim: worker: `ray start` ended with status 1")
            assert not [node for node in ray.nodes() if "bench:stranger" in node["Resources"]]
        finally:
            stranger.kill()
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.stderr.close()


def test_the_dashboard_is_named_and_listens_on_loopback_alone(tmp_path):
    """Where Ray has what its dashboard needs; elsewhere the answer says what to install."""
    member = Member(rays.job(tmp_path), workers=1, dashboard=True, make=rays.Sleepy(str(tmp_path / "journal"), 0.1))
    said = []
    member.say = said.append
    if importlib.util.find_spec("aiohttp_cors") is None:
        with pytest.raises(UserError, match=r"dashboard: got true, .* pip install 'ray\[default\]'"):
            member.open()
        return
    try:
        member.open()
        url = next(text for text in said if text.startswith("Ray dashboard: ")).removeprefix("Ray dashboard: ")
        place = urlsplit(url)
        assert place.hostname == "127.0.0.1"
        with socket.create_connection((place.hostname, place.port), timeout=10):
            pass
        heard = {one.laddr.ip for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == place.port}
        assert heard == {"127.0.0.1"}
    finally:
        member.close()


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
        (["--address", "auto"], ["--address: got 'auto'", "the executor local does not take", "--executor ray_tune"]),
    ],
)
def test_wrong_words_about_a_cluster_are_answered_in_one_line(tmp_path, words, parts):
    done = autoslim(*COMMON, "--task", TASK, *words, "--out", tmp_path / "out", "--quiet")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr
