"""Who works on what: items wait, are leased to a slot, go back when the lease ends, and end exactly once.

Plain bookkeeping with the time as an argument, so that every fault can be played through without a cluster.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

#: seconds without a sign of life after which a slot's item goes back; an item that lost so many workers is given up
LEASE_SECONDS, MOST_LOSSES = 12.0, 3
#: seconds for which an item keeps away from a slot that handed it back
AVOID_SECONDS = 10.0


@dataclass
class Item:
    """One piece of work: a verb of the worker and what goes with it. ``bench`` items need the target device; ``asker`` is the slot that
    waits for the answer, empty for the driver."""

    number: int
    verb: str
    payload: Any
    bench: bool = False
    asker: str = ""
    holder: str = ""
    until: float = 0.0
    losses: int = 0
    why: str = ""
    avoid: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Items by number. A slot is named ``name:life``; a new life of the same name says that the old one is over."""

    def __init__(self, seconds: float = LEASE_SECONDS, most_losses: int = MOST_LOSSES) -> None:
        self.seconds, self.most_losses = seconds, most_losses
        self.waiting: dict[int, Item] = {}
        self.leased: dict[int, Item] = {}
        self.ends: deque[tuple[int, Any]] = deque()
        self.answers: dict[int, Any] = {}
        self.counts = {"put": 0, "ended": 0, "late": 0, "lost": 0, "handed_back": 0}

    def put(self, verb: str, payload: Any, bench: bool = False, asker: str = "") -> int:
        """A new item; its number."""
        number = self.counts["put"]
        self.counts["put"] += 1
        self.waiting[number] = Item(number, verb, payload, bench, asker)
        return number

    def take(self, slot: str, bench: bool, work: bool, now: float) -> Item | None:
        """The oldest item that this slot may do; the one it holds already, if the last answer did not reach it."""
        held = next((item for item in self.leased.values() if item.holder == slot), None)
        if held is None:
            fit = [item for item in self.waiting.values() if (bench if item.bench else work)]
            wanted = [item for item in fit if item.avoid.get(name_of(slot), now) <= now]
            if not wanted:
                return None
            held = min(wanted, key=lambda item: item.number)
            del self.waiting[held.number]
            self.leased[held.number] = held
            held.holder = slot
        held.until = now + self.seconds
        return held

    def renew(self, slot: str, now: float) -> None:
        """A sign of life."""
        for item in self.leased.values():
            if item.holder == slot:
                item.until = now + self.seconds

    def end(self, number: int, reply: Any) -> bool:
        """The first reply of an item counts, whoever gives it; False for every later one."""
        item = self.leased.pop(number, None) or self.waiting.pop(number, None)
        if item is None:
            self.counts["late"] += 1
            return False
        self.counts["ended"] += 1
        if item.asker:
            self.answers[number] = reply
        else:
            self.ends.append((number, reply))
        return True

    def hand_back(self, number: int, slot: str, why: str, now: float) -> None:
        """The slot cannot do it for a fault of its own (a full disk): somebody else shall, or the same one later."""
        item = self.leased.get(number)
        if item is not None and item.holder == slot:
            self.counts["handed_back"] += 1
            item.avoid[name_of(slot)] = now + AVOID_SECONDS
            self._lost(item, why)

    def forget(self, slot: str) -> None:
        """``slot`` begins: whatever earlier lives of its name held goes back, and nobody waits for what they asked."""
        gone = [*self.leased.values(), *self.waiting.values()]
        for item in gone:
            if item.asker and name_of(item.asker) == name_of(slot) and item.asker != slot:
                self.leased.pop(item.number, None)
                self.waiting.pop(item.number, None)
            elif item.holder and name_of(item.holder) == name_of(slot) and item.holder != slot:
                self._lost(item, "its worker was lost")

    def expire(self, now: float) -> None:
        """Items whose slot gave no sign of life in time go back."""
        for item in list(self.leased.values()):
            if item.until < now:
                self._lost(item, f"its worker gave no sign of life for {self.seconds:g} s")

    def _lost(self, item: Item, why: str) -> None:
        self.counts["lost"] += 1
        item.losses += 1
        item.holder, item.why = "", why
        if item.losses >= self.most_losses:
            self.end(item.number, ("lost", f"{why}, {item.losses} times"))
            return
        self.leased.pop(item.number, None)
        self.waiting[item.number] = item


def name_of(slot: str) -> str:
    """``name`` of ``name:life``."""
    return slot.rpartition(":")[0]
