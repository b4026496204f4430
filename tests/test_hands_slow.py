"""A slot's hands on a real small disk: a full one is the slot's fault and never the candidate's."""

import os
import subprocess
from pathlib import Path

import disks
import psutil
import pytest

from autoslim.candidate import Candidate, Done
from autoslim.executors import _hands
from autoslim.executors._hands import Maker, Setup
from autoslim.job import Job
from autoslim.recipe import Recipe, Step
from autoslim.search import job_of
from autoslim.spec import load_study

pytestmark = pytest.mark.slow
TASKS = Path(__file__).parent / "tasks"
CANDIDATE = Candidate(0, {}, Recipe.of([Step("student", "", {"builder": "small"})], {"distill_steps": 0}))


@pytest.fixture
def disk(tmp_path, monkeypatch):
    """The small disk that slots live on."""
    with disks.small(tmp_path / "disk") as place:
        monkeypatch.setenv("AUTOSLIM_SLOTS", str(place / "slots"))
        yield place


def test_a_full_disk_hands_the_candidate_back_and_a_free_one_takes_it(disk, tmp_path):
    spec = load_study(None, {"task": str(TASKS / "tiny.py"), "space": str(TASKS / "hostile.yaml"), "threads": "1"})
    job: Job = job_of(spec, tmp_path)
    hands = Maker()("slot", away=False)
    try:
        assert hands.folder.is_relative_to(disk)
        hands.configure(Setup(job, None, {}))
        [early] = psutil.Process().children()  # it starts before there is anything to do
        prepared = hands.do("prepare", None, lambda: None, None)
        assert prepared.kind == "ok"
        assert psutil.Process().children() == [early]
        assert hands.ready()
        filler = disks.fill(disk)
        assert not hands.ready()
        reply = hands.do("evaluate", CANDIDATE, lambda: None, None)
        assert reply.kind == "again", reply
        assert "No space left on device" in reply.value
        filler.unlink()
        assert hands.ready()
        hands.configure(Setup(job, prepared.value, {}))
        [idle] = psutil.Process().children()
        idle.kill()  # while it has nothing to do: no candidate pays for that
        idle.wait(10)
        reply = hands.do("evaluate", CANDIDATE, lambda: None, None)
        assert isinstance(reply.value, Done), reply
        assert reply.files[reply.value.model_file][0] == reply.value.sha256
    finally:
        folder = hands.folder
        hands.close()
    assert not folder.exists()


def test_what_a_killed_slot_left_is_swept_and_a_live_one_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOSLIM_SLOTS", str(tmp_path))
    code = "from autoslim.executors._hands import own_folder; import os; print(own_folder('gone'), flush=True); os.kill(os.getpid(), 9)"
    left = subprocess.run([os.sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    assert Path(left).is_dir()
    mine = _hands.own_folder("mine")
    assert not Path(left).exists()
    _hands.own_folder("other")
    assert mine.is_dir()


def test_each_crash_is_told_with_its_own_last_words(tmp_path, monkeypatch):
    """One slot's log goes on from worker to worker; what a reply has told is not told again."""
    monkeypatch.setenv("AUTOSLIM_SLOTS", str(tmp_path / "slots"))
    spec = load_study(None, {"task": str(TASKS / "tiny.py"), "space": str(TASKS / "hostile.yaml"), "threads": "1"})
    crash = Candidate(1, {}, Recipe.of([Step("student", "", {"builder": "crash"})], {"distill_steps": 0}))
    hands = Maker()("slot", away=False)
    try:
        hands.configure(Setup(job_of(spec, tmp_path), None, {}))
        prepared = hands.do("prepare", None, lambda: None, None).value
        hands.configure(Setup(job_of(spec, tmp_path), prepared, {}))
        replies = [hands.do("evaluate", crash, lambda: None, None) for _ in range(2)]
    finally:
        hands.close()
    assert [reply.log.count("the last words of a worker") for reply in replies] == [1, 1]
