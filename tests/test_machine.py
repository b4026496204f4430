"""machine.py: the locks between processes."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from autoslim import timing
from autoslim.machine import Machine

HOLDER = """
import sys, time
from pathlib import Path
from autoslim.machine import Machine
machine = Machine(Path(sys.argv[1]))
with getattr(machine, sys.argv[2])():
    print("in", flush=True)
    end = time.monotonic() + 20
    while time.monotonic() < end and not Path(sys.argv[1], "stop").exists():
        time.sleep(0.005)
        if sys.argv[3] == "pauses":
            machine.pause()
    Path(sys.argv[1], "out").write_text("out")
"""


@contextmanager
def holder(folder, what, pauses=""):
    """Another process that holds ``what`` until there is a file called stop."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder), what, pauses], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


ASKER = """
import sys
from pathlib import Path
from autoslim.machine import Machine
with getattr(Machine(Path(sys.argv[1])), sys.argv[2])():
    print("after" if Path(sys.argv[1], "out").exists() else "during")
"""


def ask(folder, what):
    """Another process that wants ``what`` and says whether it came in after the holder was out."""
    return subprocess.Popen([sys.executable, "-c", ASKER, str(folder), what], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("held", "wanted"), [("working", "alone"), ("alone", "working"), ("alone", "alone")])
def test_a_timing_excludes_work_and_other_timings(tmp_path, held, wanted):
    with holder(tmp_path, held):
        asker = ask(tmp_path, wanted)
        with pytest.raises(subprocess.TimeoutExpired):
            asker.wait(1.0)
        (tmp_path / "stop").touch()
        assert asker.communicate(timeout=20)[0] == "after\n"


def test_work_goes_on_together(tmp_path):
    with holder(tmp_path, "working"), Machine(tmp_path).working():
        assert not (tmp_path / "out").exists()


def test_a_worker_that_pauses_lets_a_timing_pass_and_goes_on(tmp_path):
    with holder(tmp_path, "working", "pauses") as worker:
        with Machine(tmp_path).alone():
            assert not (tmp_path / "out").exists()
            (tmp_path / "stop").touch()
            with pytest.raises(subprocess.TimeoutExpired):
                worker.wait(0.3)  # it may not go on, nor end, before the timing is over
        assert worker.wait(20) == 0


@pytest.mark.parametrize("held", ["working", "alone"])
def test_locks_are_free_after_kill_9(tmp_path, held):
    with holder(tmp_path, held) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with Machine(tmp_path).alone():
            assert not (tmp_path / "out").exists()


def test_alone_within_work_keeps_the_work_and_the_core_mask(tmp_path):
    machine = Machine(tmp_path)
    before = os.sched_getaffinity(0)
    with machine.working():
        with machine.alone():
            with timing.pinned():
                assert len(os.sched_getaffinity(0)) == 1
            assert os.sched_getaffinity(0) == before
        asker = ask(tmp_path, "alone")
        with pytest.raises(subprocess.TimeoutExpired):
            asker.wait(0.5)
    assert asker.communicate(timeout=20)[0] == "during\n"
    assert os.sched_getaffinity(0) == before


def test_pause_without_work_does_nothing(tmp_path):
    machine = Machine(tmp_path)
    with holder(tmp_path, "alone"):
        machine.pause()
        assert not (tmp_path / "out").exists()
