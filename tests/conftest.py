"""What several test files share."""

import os
import time
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: processes beside each other, one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import networks
import pytest

from autoslim import coverage, task
from autoslim.baking import baked
from autoslim.evaluator import Evaluator
from autoslim.search import job_of
from autoslim.spec import load_study


def pytest_xdist_auto_num_workers(config):
    """Two processes for the whole fast tier; one for a few files, and for the tiers that use all cores or a whole cluster by themselves."""
    whole = config.args == config.getini("testpaths") or config.args == [str(config.rootpath)]
    return 2 if whole and config.option.markexpr == "not slow and not cluster" and not config.option.keyword else 0


@pytest.fixture(scope="session", params=sorted(networks.ZOO))
def tiny(request):
    """(name, network, batch of one, its structure) for each tiny network; tests must not change them."""
    model, example = networks.ZOO[request.param]()
    model = baked(model, example)  # as a task hands it out
    return request.param, model, example, coverage.analyse(model, example)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory):
    """The evaluator of a study of the tiny task with a small space, prepared."""
    tasks, out = Path(__file__).parent / "tasks", tmp_path_factory.mktemp("evaluator")
    spec = load_study(None, {"task": str(tasks / "tiny.py"), "space": str(tasks / "plain.yaml"), "threads": "1"})
    made = Evaluator(job_of(spec, out), task.load(spec.task))
    made.prepare()
    return made


@pytest.fixture
def ticks(monkeypatch):
    """A clock that only calls move: {"now": nanoseconds}."""
    state = {"now": 0}
    monkeypatch.setattr(time, "perf_counter_ns", lambda: state["now"])
    monkeypatch.setattr(time, "perf_counter", lambda: state["now"] / 1e9)
    return state
