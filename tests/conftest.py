"""What several test files share."""

import time

import networks
import pytest

from autoslim import coverage


@pytest.fixture(scope="session", params=sorted(networks.ZOO))
def tiny(request):
    """(name, network, batch of one, its structure) for each tiny network; tests must not change them."""
    model, example = networks.ZOO[request.param]()
    return request.param, model, example, coverage.analyse(model, example)


@pytest.fixture
def ticks(monkeypatch):
    """A clock that only calls move: {"now": nanoseconds}."""
    state = {"now": 0}
    monkeypatch.setattr(time, "perf_counter_ns", lambda: state["now"])
    monkeypatch.setattr(time, "perf_counter", lambda: state["now"] / 1e9)
    return state
