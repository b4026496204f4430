"""The executors' promise, over every member: each candidate ends exactly once, a bad one ends alone, nothing is left behind."""

from pathlib import Path

import psutil
import pytest

from autoslim import effects, plugins
from autoslim.candidate import Candidate, Done, Failed
from autoslim.recipe import Recipe, Step
from autoslim.search import job_of
from autoslim.spec import load_study

TASKS = Path(__file__).parent.parent / "tasks"


#: Ray itself takes half a minute to start and stop
MEMBERS = [pytest.param(name, marks=pytest.mark.cluster) if name == "ray_tune" else name for name in plugins.names("executors")]


@pytest.fixture(scope="module", params=MEMBERS)
def worked(request, tmp_path_factory):
    """{"found": outcomes by number in the order they came, "during" and "after": children before and after close, "out": the output folder,
    "tables": (items, what the layers cost, answers, answers when it is enough from the start)}, of one executor in a search's order."""
    out = tmp_path_factory.mktemp("executor")
    spec = load_study(None, {"task": str(TASKS / "tiny.py"), "space": str(TASKS / "hostile.yaml")})
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    executor = plugins.load("executors", request.param, job=job_of(spec, out), workers=2, trial_timeout=60.0, trial_memory_mb=0.0)
    try:
        space = executor.prepare().space
        told, found = tabled(executor, space), ended(executor)
    finally:
        during = {child.pid for child in psutil.Process().children(recursive=True)} - before
        executor.close()
    after = {child.pid for child in psutil.Process().children(recursive=True)} - before
    return {"found": found, "during": during, "after": after, "out": out, "tables": told}


def tabled(executor, space):
    student = next(domain for domain in space.domains if domain.technique == "student")
    wanted = [student.choices.index(f"builder={name}") for name in ("small", "crash")]
    items = [{"domain": student.name, "choice": choice, "loss": True} for choice in wanted]
    base, answers = executor.tables(items, lambda text: None, lambda: False)
    _, none = executor.tables(items, lambda text: None, lambda: True)
    return items, base, answers, none


def ended(executor):
    waiting = [
        Candidate(number, {}, Recipe.of([Step("student", "", {"builder": name})], {"distill_steps": 0}))
        for number, name in enumerate(["small", "crash", "wrong", "small"])
    ]
    running, found = set(), []
    while waiting or running:
        while waiting and len(running) < executor.slots:
            executor.submit(waiting[0])
            running.add(waiting.pop(0).number)
        for candidate, outcome in executor.outcomes(5.0):
            running.discard(candidate.number)
            found.append((candidate.number, outcome))
    return found


def test_what_a_crashed_worker_said_last_is_in_the_run_s_log(worked):
    """Of the one that a single choice ended, and of the one that a candidate did."""
    assert (worked["out"] / "worker.log").read_text().count("the last words of a worker") == 2


def test_every_candidate_ends_exactly_once(worked):
    found = worked["found"]
    assert sorted(number for number, _ in found) == [0, 1, 2, 3]


def test_a_bad_candidate_ends_alone_with_its_reason(worked):
    ends = dict(worked["found"])
    assert isinstance(ends[0], Done)
    assert isinstance(ends[3], Done)
    assert isinstance(ends[1], Failed)
    assert ends[1].reason == "crash"
    assert "exit status 7" in ends[1].detail
    assert isinstance(ends[2], Failed)
    assert "no such student" in ends[2].detail


def test_close_leaves_no_process(worked):
    assert worked["during"]
    assert not worked["after"]


def test_single_choices_are_answered_and_one_that_crashes_is_hopeless(worked):
    items, base, answers, none = worked["tables"]
    small, crash = (next(one for one in answers if one["choice"] == item["choice"]) for item in items)
    assert 0 <= small["loss"] < effects.HOPELESS
    assert sum(small["params"].values()) <= sum(base["params"].values())
    assert crash["loss"] == effects.HOPELESS
    assert "exit status 7" in crash["error"]
    assert none == []
    assert base["times"]["latency"] > 0
