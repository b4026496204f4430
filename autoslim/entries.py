"""The trials that a run knows, counted as they come: what it costs to keep one more does not grow with their number."""

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator

from autoslim import tables
from autoslim.candidate import Done, Failed, Outcome
from autoslim.study import Entry


def is_interrupted(outcome: Outcome) -> bool:
    return isinstance(outcome, Failed) and outcome.reason == "interrupted"


class Sample:
    """Numbers in order, for their median."""

    def __init__(self) -> None:
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        bisect.insort(self._sorted, value)

    def remove(self, value: float) -> None:
        del self._sorted[bisect.bisect_left(self._sorted, value)]

    def median(self, otherwise: float) -> float:
        """The median, or ``otherwise`` where there is no number."""
        half, odd = divmod(len(self._sorted), 2)
        if not self._sorted:
            return otherwise
        return self._sorted[half] if odd else (self._sorted[half - 1] + self._sorted[half]) / 2


class Entries:
    """Iterates as a sequence of entries would, in the order of their last change. An entry put again takes the place of the one with its
    number."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._of: dict[int, Entry] = {}
        self._numbers: dict[str, set[int]] = {}
        #: trials that ended and are neither repeats nor interrupted; measured ones (repeats too) without the untouched model
        self.evaluations = self.done = 0
        #: how many entries are rivals, by key (a key that lost its last one keeps a 0); of the measured: ms, seconds of scoring and of all
        self.rivals: Counter[str] = Counter()
        self.times, self.scores, self.seconds = Sample(), Sample(), Sample()
        self.untouched_ms = 0.0
        for entry in entries:
            self.put(entry)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._of.values())

    def __len__(self) -> int:
        return len(self._of)

    def of(self, number: int) -> Entry:
        """The entry of a trial. Raises KeyError for an unknown one."""
        return self._of[number]

    def of_keys(self, keys: Iterable[str]) -> list[Entry]:
        """The entries of these recipes, by number."""
        return [self._of[number] for number in sorted(number for key in keys for number in self._numbers.get(key, ()))]

    def put(self, entry: Entry) -> None:
        """Note an entry, in the place of an earlier one of its number."""
        old = self._of.pop(entry.number, None)
        if old is not None:
            self._count(old, -1)
            self._numbers[old.key].discard(old.number)
        self._of[entry.number] = entry
        self._numbers.setdefault(entry.key, set()).add(entry.number)
        self._count(entry, 1)

    def _count(self, entry: Entry, sign: int) -> None:
        if tables.is_rival(entry):
            self.rivals[entry.key] += sign
        if entry.outcome is None:
            return
        self.evaluations += sign * (entry.cached_from is None and not is_interrupted(entry.outcome))
        if not isinstance(entry.outcome, Done):
            return
        time = entry.outcome.measurement.get("latency_ms")
        if entry.label == "untouched":
            self.untouched_ms = time if sign > 0 else 0.0
            return
        self.done += sign
        spent = entry.outcome.seconds
        for sample, value in ((self.times, time), (self.scores, spent.get("score", 0.0)), (self.seconds, sum(spent.values()))):
            (sample.add if sign > 0 else sample.remove)(value)
