"""The owner's account of its slots, which `autoslim status` shows; no Ray and no waiting."""

import asyncio

import pytest

from autoslim.cli.status import worker_lines
from autoslim.executors import _owner
from autoslim.executors._hands import Reply
from autoslim.executors._ledger import Ledger


@pytest.fixture
def clock(monkeypatch):
    state = {"now": 100.0}
    monkeypatch.setattr(_owner.time, "monotonic", lambda: state["now"])
    monkeypatch.setattr("autoslim.cli.status.time.time", lambda: state["now"])
    return state


def test_utilisation_is_work_by_life(clock):
    """Two slots begin at second 100: one works 30 of 40 seconds on two items, one does nothing and is silent from second 120 on."""

    async def play():
        owner = _owner.Owner(Ledger())
        owner._ticking.cancel()
        await owner.configure(["a setup"])
        for name in ("slot-0", "slot-1"):
            await owner.hello(f"{name}:1", {"host": "here", "address": "192.0.2.1", "node": "n", "pid": 7, "bench": False, "work": True})
        for number, seconds in enumerate((10.0, 20.0)):
            await owner.put("evaluate", number)
            told = await owner.next("slot-0:1", 1, False, True, None, 1.0)
            assert told["item"] == (number, "evaluate", number)
            clock["now"] += seconds
            await owner.next("slot-0:1", 1, False, True, (number, Reply("ok", number, seconds=seconds)), 0.0)
            if not number:
                await owner.next("slot-1:1", 1, False, True, None, 0.0)
        clock["now"] += 10.0
        await owner.hello("slot-0:2", {"host": "here", "address": "192.0.2.1", "node": "n", "pid": 8, "bench": False, "work": True})
        await owner.mishap("a trace\nValueError: the last line")
        return await owner.state(), await owner.ends(0.0)

    state, ends = asyncio.run(play())
    rows = {row["name"]: row for row in state["slots"]}
    assert [number for number, _ in ends] == [0, 1]
    assert (rows["slot-0"]["utilisation"], rows["slot-0"]["items"], rows["slot-0"]["lives"], rows["slot-0"]["pid"]) == (0.75, 2, 2, 8)
    assert (rows["slot-1"]["utilisation"], rows["slot-1"]["silent_seconds"]) == (0.0, 30.0)
    lines = worker_lines(state | {"written": 137.0, "wanted": 3, "bench": "bench:board", "nodes": 2})
    assert lines[0].startswith("workers 3 s ago: 2 slots of 3 wanted on 2 nodes, bench board; 0 items wait")
    assert "75% busy, life 2" in lines[1]
    assert "slot-1" in lines[2]
    assert "0% busy, life 1, silent for 30 s" in lines[2]
    assert lines[3] == "  trouble: ValueError: the last line"


def test_a_slot_that_waits_for_work_is_told_of_a_new_setup_at_once():
    """Long before there is an item; and it then waits for one, since it has the setup."""

    async def play():
        owner = _owner.Owner(Ledger())
        owner._ticking.cancel()
        await owner.hello("slot-0:1", {"host": "here", "address": "192.0.2.1", "node": "n", "pid": 7, "bench": False, "work": True})
        pull = asyncio.create_task(owner.next("slot-0:1", 0, False, True, None, 60.0))
        await asyncio.sleep(0)
        assert not pull.done()
        await owner.configure(["a setup"])
        told = await asyncio.wait_for(pull, 5)
        pull = asyncio.create_task(owner.next("slot-0:1", told["epoch"], False, True, None, 60.0))
        await asyncio.sleep(0)
        await owner.put("evaluate", 7)
        return told, await asyncio.wait_for(pull, 5)

    first, second = asyncio.run(play())
    assert (first["setup"], first["item"]) == (["a setup"], None)
    assert (second["setup"], second["item"]) == (None, (0, "evaluate", 7))
