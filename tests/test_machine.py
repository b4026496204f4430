"""machine.py: the locks between processes."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager

import pytest

from autoslim import machine, timing
from autoslim.errors import UserError
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


def test_a_link_in_the_place_of_a_lock_opens_no_file_to_others(tmp_path):
    private = tmp_path / "private"
    private.write_text("mine")
    private.chmod(0o600)
    (tmp_path / "autoslim.room.lock").symlink_to(private)
    with pytest.raises(UserError, match=r"autoslim.room.lock: got a link, allowed: a file"):
        Machine(tmp_path)
    (tmp_path / "autoslim.room.lock").unlink()
    os.link(private, tmp_path / "autoslim.room.lock")
    Machine(tmp_path)
    assert private.stat().st_mode & 0o777 == 0o600


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


def test_two_folders_for_temporary_files_are_one_machine(tmp_path, monkeypatch):
    found = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        told = subprocess.run(
            [sys.executable, "-c", "from autoslim.machine import shared_folder; print(shared_folder())"],
            env={**os.environ, "TMPDIR": str(tmp_path / name)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.add(told.stdout)
    assert len(found) == 1
    assert str(tmp_path) not in found.pop()
    monkeypatch.setattr(machine, "FOLDERS", (str(tmp_path / "none"), str(tmp_path / "one")))
    Machine()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"autoslim.gate.lock", "autoslim.room.lock"}
    monkeypatch.setattr(machine, "FOLDERS", ())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "two"))
    assert machine.shared_folder() == tmp_path / "two"


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


WAITER = """
import sys, time
from pathlib import Path
from autoslim import machine
machine.TICK = 0.0005
made = machine.Machine(Path(sys.argv[1]))
made.tick()
with made.working():
    print("in", flush=True)
    while not Path(sys.argv[1], "out").exists():
        time.sleep(0.002)
    beats = []
    made.pause = lambda: beats.append(None)
    time.sleep(0.1)
    print(len(beats) > 10)
"""


def test_a_long_timing_of_another_process_does_not_fill_the_stack(tmp_path):
    """Two thousand beats fall into the wait; each would wait within the one before. Afterwards it beats again."""
    waiter = subprocess.Popen([sys.executable, "-c", WAITER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert waiter.stdout.readline() == "in\n"
    with Machine(tmp_path).alone():
        with pytest.raises(subprocess.TimeoutExpired):
            waiter.wait(1.5)
        (tmp_path / "out").touch()
    told, errors = waiter.communicate(timeout=20)
    assert (told, waiter.returncode) == ("True\n", 0), errors[-300:]


def test_all_users_may_take_the_locks_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        machine.Machine(tmp_path)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_lock_that_may_not_be_read_is_told_in_a_line():
    code = (
        "import os, sys; from pathlib import Path; from autoslim import machine, errors\n"
        "folder = Path(sys.argv[1]); folder.chmod(0o755); machine.Machine(folder)\n"
        "for path in folder.iterdir(): path.chmod(0o600)\n"
        "os.seteuid(65534)\n"
        "try: machine.Machine(folder)\n"
        "except (errors.UserError, PermissionError) as error: print(type(error).__name__, error)"
    )
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("UserError "), done.stderr
    assert "chmod a+r" in done.stdout
