"""entries.py: counts kept as trials come are those of counting everything anew."""

import random
import statistics

import pytest

from autoslim import tables
from autoslim.candidate import Done, Failed, Rejected
from autoslim.entries import Entries
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.study import Entry


def an_end(chance):
    found = Measurement({"latency_ms": Value(round(chance.random(), 1))})
    return chance.choice(
        [
            None,
            Failed("crash", "x"),
            Failed("interrupted", "x"),
            Rejected("predicted", found, {}, Recipe(), {}),
            Done(found, {}, "f", "s", Recipe(), {"score": round(chance.random(), 1)}),
        ]
    )


@pytest.mark.parametrize("seed", range(5))
def test_counts_are_those_of_a_list(seed):
    """Trials begin, end, end again otherwise, repeat others; after each change every count is compared."""
    chance, entries, known = random.Random(seed), Entries(), {}
    for _ in range(150):
        number = chance.randrange(40)
        label = {0: "untouched", 1: "uniform-int8", 2: "corner"}.get(number, "")
        entry = Entry(number, {}, label, {}, f"key{number % 30}", an_end(chance), chance.choice([None, None, 3]))
        entries.put(entry)
        known.pop(number, None)
        known[number] = entry
        rows = list(known.values())
        done = [row.outcome for row in rows if isinstance(row.outcome, Done) and row.label != "untouched"]
        assert list(entries) == rows
        assert len(entries) == len(rows)
        assert entries.of(number) is entry
        assert entries.evaluations == tables.counts(rows)["evaluations"]
        assert entries.done == len(done)
        assert {key for key, count in entries.rivals.items() if count} == {row.key for row in rows if tables.is_rival(row)}
        assert entries.scores.median(7.0) == (statistics.median(one.seconds["score"] for one in done) if done else 7.0)
        assert entries.times.median(7.0) == (statistics.median(one.measurement.get("latency_ms") for one in done) if done else 7.0)
    wanted = {"key3", "key7", "nothing"}
    assert entries.of_keys(wanted) == sorted((row for row in known.values() if row.key in wanted), key=lambda row: row.number)
