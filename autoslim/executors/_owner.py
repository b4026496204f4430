"""The owner: an actor on the driver's node that holds the ledger. Slots pull from it; the driver puts in and takes out."""

import asyncio
import time
from typing import Any

from autoslim.executors._hands import Reply
from autoslim.executors._ledger import Ledger

TICK = 1.0


class Owner:
    """Every method is a remote call. Calls that wait return after a few seconds at most, so that both sides see each other live."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._changed = asyncio.Condition()
        self._setup: list[Any] = []
        self._epoch, self._closed = 0, False
        self._slots: dict[str, dict[str, Any]] = {}
        self._mishaps: list[str] = []
        self._ticking = asyncio.get_event_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while not self._closed:
            await asyncio.sleep(TICK)
            self._ledger.expire(time.monotonic())
            await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, found: Any, seconds: float) -> None:
        """Wait until ``found()`` is true or the time is up."""
        async with self._changed:
            try:
                await asyncio.wait_for(self._changed.wait_for(found), seconds)
            except TimeoutError:
                return

    # -- the driver's side ----------------------------------------------------------------------------------------------

    async def configure(self, setup: list[Any]) -> None:
        """``setup`` is a list with one reference into the object store."""
        self._setup, self._epoch = setup, self._epoch + 1
        await self._wake()

    async def put(self, verb: str, payload: Any, bench: bool = False) -> int:
        """Take in an item of work; returns its number."""
        number = self._ledger.put(verb, payload, bench)
        await self._wake()
        return number

    async def ends(self, seconds: float) -> list[tuple[int, Reply]]:
        """What has ended since the last call; waits for the first one."""
        await self._until(lambda: bool(self._ledger.ends), seconds)
        found = list(self._ledger.ends)
        self._ledger.ends.clear()
        return [(number, reply if isinstance(reply, Reply) else Reply(*reply)) for number, reply in found]

    async def stop(self) -> None:
        """From now on slots are told to go."""
        self._closed = True
        await self._wake()

    async def mishap(self, text: str) -> None:
        """A slot ended that should not have."""
        self._mishaps.append(text)

    async def state(self) -> dict[str, Any]:
        """What an onlooker may want to know: slots, counts, mishaps."""
        now = time.monotonic()
        slots = [
            {
                **row["facts"],
                "name": name,
                "lives": row["lives"],
                "items": row["items"],
                "busy_seconds": round(row["busy"], 2),
                "utilisation": round(row["busy"] / max(now - row["begun"], 1e-9), 3),
                "silent_seconds": round(now - row["seen"], 1),
                "doing": row["doing"],
            }
            for name, row in self._slots.items()
        ]
        waiting = sum(not item.bench for item in self._ledger.waiting.values())
        waits = {"waiting": waiting, "waiting_for_bench": len(self._ledger.waiting) - waiting, "leased": len(self._ledger.leased)}
        return {"slots": slots, **waits, "counts": dict(self._ledger.counts), "mishaps": self._mishaps[-5:]}

    # -- the slots' side ------------------------------------------------------------------------------------------------

    async def hello(self, slot: str, facts: dict[str, Any]) -> None:
        """A slot begins."""
        name, now = slot.rpartition(":")[0], time.monotonic()
        old = self._slots.get(name, {"lives": 0, "items": 0, "busy": 0.0, "begun": now})
        self._slots[name] = {**old, "facts": facts, "lives": old["lives"] + 1, "seen": now, "doing": ""}
        self._ledger.forget(slot)
        await self._wake()

    async def next(self, slot: str, epoch: int, bench: bool, work: bool, ended: tuple[int, Reply] | None, seconds: float) -> dict[str, Any]:
        """Hand in what ended and take the next item: {"stop", "epoch", "setup", "item"}; no item if there is none in time. A slot whose setup
        is not the present one is answered at once, so that it gets ready while others prepare."""
        if ended is not None:
            self._end(slot, *ended)
            await self._wake()
        mine = self._slots[slot.rpartition(":")[0]]
        item = None

        def found() -> bool:
            nonlocal item
            item = self._ledger.take(slot, bench, work, time.monotonic()) if self._epoch else None
            return self._closed or item is not None or self._epoch != epoch

        await self._until(found, seconds)
        mine["seen"], mine["doing"] = time.monotonic(), item.verb if item else ""
        told = {"stop": self._closed, "epoch": self._epoch, "setup": self._setup if self._epoch != epoch else None}
        return {**told, "item": (item.number, item.verb, item.payload) if item else None}

    def _end(self, slot: str, number: int, reply: Reply) -> None:
        mine = self._slots[slot.rpartition(":")[0]]
        mine["busy"] += reply.seconds
        if reply.kind == "again":
            self._ledger.hand_back(number, slot, str(reply.value), time.monotonic())
        elif self._ledger.end(number, reply):
            mine["items"] += 1

    async def beat(self, slot: str) -> bool:
        """A sign of life; whether the slot shall go on."""
        self._slots[slot.rpartition(":")[0]]["seen"] = time.monotonic()
        self._ledger.renew(slot, time.monotonic())
        return not self._closed

    async def ask(self, slot: str, verb: str, payload: Any) -> int:
        """A slot asks for a measurement on the bench."""
        number = self._ledger.put(verb, payload, bench=True, asker=slot)
        await self._wake()
        return number

    async def answer(self, number: int, seconds: float) -> Reply | None:
        """The answer to :meth:`ask`, or None if it is not there in time."""
        await self._until(lambda: number in self._ledger.answers, seconds)
        reply = self._ledger.answers.pop(number, None)
        return Reply(*reply) if isinstance(reply, tuple) else reply
