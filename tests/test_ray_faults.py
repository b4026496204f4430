"""Faults on a real Ray cluster of several nodes: the fault is shown to have hit, and the search finds what an undisturbed one finds."""

import os
import signal
import time

import faults
import pytest
import rays

from autoslim.executors import _cluster
from autoslim.executors.ray_tune import Member

_cluster.quiet_ray()
pytestmark = pytest.mark.cluster
BENCH = {"num_cpus": 0, "resources": {"bench:board": 1}}


def fresh(journal):
    """The rows of candidates that were begun a moment ago and are under way, so that a fault now hits them."""
    rows = rays.notes(journal)
    ended = {row[2] for row in rows if row[0] == "end"}
    return [row for row in rows if row[0] == "begin" and row[2] not in ended and time.time() - row[6] < 0.4]


def begun_and_not_ended(journal, pids):
    """Candidates that processes of ``pids`` began and never ended: what a fault took."""
    rows = [row for row in rays.notes(journal) if row[1] == "evaluate" and row[4] in pids]
    return {row[2] for row in rows if row[0] == "begin"} - {row[2] for row in rows if row[0] == "end"}


def test_killed_workers_and_lost_nodes_lose_and_double_nothing(tmp_path):
    """Two nodes of two cores and a bench without any: a slot is killed, then a node goes."""
    journal, hit = str(tmp_path / "journal"), {}
    with rays.cluster([BENCH, {"num_cpus": 2}, {"num_cpus": 2}]) as cluster:
        member = Member(rays.job(tmp_path), address=cluster.address, target="board", make=rays.Sleepy(journal, 1.0))
        member.open()
        member.attach(None)
        assert member.slots == 4

        def strike(count):
            young = fresh(journal)
            if count >= 5 and "killed" not in hit and young:
                hit["killed"] = young[0][4]
                os.kill(hit["killed"], signal.SIGKILL)
            elif count >= 10 and "pids" not in hit and young:
                node = next(node for node in cluster.worker_nodes if node.node_id == young[0][5])
                hit["pids"], hit["time"] = {row[4] for row in young if row[5] == node.node_id}, time.time()
                cluster.remove_node(node, allow_graceful=False)

        try:
            entries = faults.search(tmp_path, faults.Struck(member, strike), 30)
            state = member.state()
        finally:
            member.close()
    faults.check(tmp_path / "calm", entries, 30, rays.worked(journal))
    assert begun_and_not_ended(journal, {hit["killed"]})
    taken = begun_and_not_ended(journal, hit["pids"])
    assert taken
    again = [row[6] - hit["time"] for row in rays.notes(journal) if row[0] == "begin" and row[2] in taken and row[6] > hit["time"]]
    assert max(again) < 30, again
    assert state["counts"]["lost"] >= 2
    assert state["counts"]["put"] == state["counts"]["ended"] == len({row[2] for row in rays.notes(journal)})


def test_times_are_taken_on_the_bench_alone_and_wait_for_it(tmp_path):
    """The bench goes while work goes on; work waits, and goes on when a bench comes back."""
    journal, hit = str(tmp_path / "journal"), {}
    with rays.cluster([{"num_cpus": 2}, BENCH]) as cluster:
        bench = next(node for node in cluster.worker_nodes if "bench:board" in (node.get_resource_and_label_spec().resources or {}))
        member = Member(rays.job(tmp_path), address=cluster.address, target="board", make=rays.Sleepy(journal, 0.3, timing=True))
        said = []
        member.say = said.append
        member.open()
        member.attach(None)

        def strike(count):
            if count >= 4 and "gone" not in hit:
                hit["gone"] = time.time()
                cluster.remove_node(bench, allow_graceful=False)
            if "gone" in hit and "back" not in hit and time.time() - hit["gone"] > 25:
                hit["back"], hit["count"] = time.time(), count
                cluster.add_node(object_store_memory=100 * 2**20, **BENCH)

        try:
            entries = faults.search(tmp_path, faults.Struck(member, strike), 16)
        finally:
            member.close()
    faults.check(tmp_path / "calm", entries, 16, rays.worked(journal))
    timings = [row for row in rays.notes(journal) if row[1] == "time"]
    assert {row[3] for row in timings} == {"bench"}
    assert all(row[3] != "bench" for row in rays.notes(journal) if row[1] == "evaluate")
    assert not [row for row in timings if row[0] == "end" and hit["gone"] + 1 < row[6] < hit["back"]]
    spans = sorted((row[6], row[0]) for row in timings if row[6] > hit["back"])
    assert [what for _, what in spans] == ["begin", "end"] * (len(spans) // 2)  # one at a time
    assert 4 <= hit["count"] < 16
    assert any("bench board is not there" in text for text in said), said
