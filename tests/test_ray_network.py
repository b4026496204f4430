"""Nodes in network namespaces of their own: a cable is cut in the middle of a search, and put back."""

import sys
import time
from pathlib import Path

import cables
import faults
import pytest
import rays

from autoslim.executors import _cluster
from autoslim.executors.ray_tune import Member

_cluster.quiet_ray()
pytestmark = pytest.mark.cluster
SECONDS, TRIALS = 3.0, 10


def join(host, address, cpus, log):
    """A Ray node inside the namespace, once it is up."""
    told = ["--address", address, "--node-ip-address", host.address, "--num-cpus", cpus, "--object-store-memory", 100 * 2**20, "--block"]
    with log.open("wb") as sink:
        process = host.run(Path(sys.executable).with_name("ray"), "start", *told, stdout=sink, stderr=sink)
    stop = time.monotonic() + 60
    while "Ray runtime started" not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < stop, log.read_text(errors="replace")
        time.sleep(0.1)
    return process


def test_a_cut_cable_loses_and_doubles_nothing(tmp_path):
    """Two machines, one with two slots: its cable is cut while both work, and put back when their candidates run elsewhere. Nothing tells the
    driver. A slot there either lives on and ends what it had, too late to count, or fails on its dead connection and begins anew: as the
    connections come back, which is not ours to say."""
    journal, hit = str(tmp_path / "journal"), {}
    with cables.network(2) as (here, (far, near)), rays.cluster([], node_ip_address=here, resources={"bench:board": 1}) as cluster:
        joined = [join(host, cluster.address, cpus, tmp_path / f"node{cpus}.log") for host, cpus in ((far, 2), (near, 1))]
        member = Member(rays.job(tmp_path), workers=3, address=cluster.address, target="board", make=rays.Sleepy(journal, SECONDS))
        member.open()
        member.attach(None)
        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in member._ray.nodes()}

        def strike(count):
            rows = [row for row in rays.notes(journal) if row[1] == "evaluate"]
            ended = {row[2] for row in rows if row[0] == "end"}
            away = [row for row in rows if row[0] == "begin" and row[2] not in ended and nodes[row[5]] == far.address]
            if not hit and len(away) == 2 and all(time.time() - row[6] < SECONDS / 2 for row in away):
                hit.update(taken={row[2] for row in away}, time=time.time())  # the cut itself takes a while
                far.cut()
            elif hit and "mended" not in hit and begun_again(rows) == hit["taken"]:
                far.mend()
                hit["mended"] = time.time()

        def begun_again(rows):
            return {row[2] for row in rows if row[0] == "begin" and row[2] in hit["taken"] and row[6] > hit["time"]}

        try:
            entries = faults.search(tmp_path, faults.Struck(member, strike), TRIALS)
            state = member.state()
        finally:
            member.close()
        assert all(one.poll() is None for one in joined)
    faults.check(tmp_path / "calm", entries, TRIALS, rays.worked(journal))
    assert hit["mended"] > hit["time"]
    assert state["counts"]["lost"] >= 2
    assert not cables.left()
