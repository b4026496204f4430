"""verification.py: rounds of timing that are taken one by one, with a contest and locks that are not real."""

from contextlib import contextmanager
from pathlib import Path

import pytest

from autoslim import timing, verification
from autoslim.contest import Contest
from autoslim.metrics import Value
from autoslim.verification import Verifier


def measured(p50):
    ratio, base = Value(p50 / 2, p50 / 2, p50 / 2), Value(2.0, 2.0, 2.0)
    return timing.Timing(ratio, Value(p50, p50, p50), 2 * p50, base, 16, True)


class Locks:
    """Notes the order of locks and timings."""

    def __init__(self):
        self.order = []

    @contextmanager
    def held(self, name):
        self.order.append(f"+{name}")
        yield
        self.order.append(f"-{name}")

    def working(self):
        return self.held("working")

    def alone(self):
        return self.held("alone")


class Rounds(Contest):
    """Files whose rounds are told beforehand."""

    def __init__(self, told, locks):
        super().__init__(None, 1, [([], 1.0)])
        self.told, self.locks, self.asked = told, locks, []

    def round(self, path, base, seconds):
        self.locks.order.append("round")
        self.asked.append((path, base, seconds))
        return measured(next(self.told[path.name]))


@pytest.fixture
def verifier():
    made = Verifier.__new__(Verifier)
    made.machine = Locks()
    made.contest = Rounds({"a": iter([1.0, 1.2, 1.4]), "b": iter([5.0, 5.0])}, made.machine)
    made._rounds = {}
    return made


def test_each_call_is_one_more_round_of_that_file(verifier):
    found = [verifier.clock(file, "u") for file in ("x/a", "x/b", "x/a", "x/b", "x/a")]
    assert verifier.contest.asked == [(Path("x") / name, Path("u"), verification.ROUND_SECONDS) for name in "ababa"]
    assert [row["rounds"] for row in found] == [1, 1, 2, 2, 3]
    assert [row["latency_ms"]["value"] for row in found] == pytest.approx([1.0, 5.0, 1.1, 5.0, 1.2])
    assert [row["pairs"] for row in found] == [16, 16, 32, 32, 48]
    assert [row["converged"] for row in found] == [True, True, False, True, False]
    last = found[-1]
    assert last["latency_p95_ms"] == pytest.approx(2.4)
    assert last["latency_ratio"]["value"] == pytest.approx(0.6)
    assert last["latency_ms"]["high"] == pytest.approx(1.2 + 4.303 * 0.2 / 3**0.5)  # Student's t with 2 degrees of freedom


def test_a_round_has_the_machine_alone(verifier):
    verifier.clock("x/a", "u")
    assert verifier.machine.order == ["+working", "+alone", "round", "-alone", "-working"]
