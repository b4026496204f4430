"""What is tried before the strategy is asked: corner, rivals, a finished study's front, the uniform grid; in turn with it where time is short."""

from collections import deque
from collections.abc import Iterable
from typing import Any

from autoslim.ending import spare
from autoslim.loop import Loop

#: share of the time left that all points that wait may take before the strategy gets every second turn
SHARE = 0.25


class Queue:
    """Labels and points in their order, each given once."""

    def __init__(self, points: Iterable[tuple[str, dict[str, Any]]]) -> None:
        self._left = deque(points)
        self._served = False

    def next(self, loop: Loop) -> tuple[str, dict[str, Any]] | None:
        """The next (label, point); None where none is left, and where it is the strategy's turn."""
        if not self._left or self._served and is_short(loop, len(self._left)):
            self._served = False
            return None
        self._served = True
        return self._left.popleft()


def is_short(loop: Loop, left: int) -> bool:
    """Whether ``left`` evaluations as long as those so far would take too much of what is left of --time."""
    if loop.spec.time is None:
        return False
    return left * loop.entries.seconds.median(0.0) / max(loop.executor.slots, 1) > SHARE * spare(loop)
