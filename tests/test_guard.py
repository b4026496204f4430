"""cli/_guard.py, crumbs.py: code of a task that ends its whole process is one line and the documented status, never silence."""

import json
import os
import signal
import subprocess
import sys

import pytest

from autoslim.cli import _guard
from autoslim.errors import TaskFailed
from autoslim.task import load

TASK = """
import ctypes, os, sys, torch
def die(how):
    {"exit": lambda: os._exit(3), "zero": lambda: os._exit(0), "segv": lambda: ctypes.string_at(0), "sys": lambda: sys.exit(3)}[how]()
class Net(torch.nn.Linear):
    where, how = "", ""
    def forward(self, x):
        return die(self.how) if self.where == "forward" else super().forward(x)
def model(where="", how=""):
    if where == "model": die(how)
    net = Net(8, 4)
    net.where, net.how = where, how
    return net
def example_input():
    return torch.zeros(1, 8)
def data(split, where="", how=""):
    if where == "data": die(how)
    for _ in range(2):
        yield torch.zeros(4, 8), torch.zeros(4, dtype=torch.long)
        if where == "later": die(how)
"""
#: (where, how, what is told)
ENDS = [
    ("model", "exit", "task bad: model() ended its whole process (exit status 3)"),
    ("model", "zero", "task bad: model() ended its whole process (exit status 0)"),
    ("later", "segv", "task bad: data('val') ended its whole process (signal SIGSEGV)"),
    ("forward", "exit", "forward() of the network ended its whole process (exit status 3)"),
]
#: the work of profile and apply on each of them, in one process that has loaded everything before
COMMAND = """
import json, resource, sys
from autoslim.cli import _guard
from autoslim.errors import TaskFailed
from autoslim.layers import trace
from autoslim.task import load
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def act():
    task = load("bad.py", {"where": where, "how": how})
    trace(task.model(), task.example_input())
    list(task.batches("val"))
for where, how, _ in json.loads(sys.argv[1]):
    print("status", _guard.guarded(["profile"], act, False), file=sys.stderr, flush=True)
"""
#: commands that end well, and by sys.exit() of code that is not AutoSlim's
ENDING = """
import sys, typer
from autoslim.cli import main
app = typer.Typer()
app.command("profile")(lambda: print("whole") or 3)
app.command("apply")(lambda: sys.exit(3))
main.app_of = lambda words: app
main.run()
"""


def test_a_task_that_ends_the_process_is_one_line_and_status_two(tmp_path):
    (tmp_path / "bad.py").write_text(TASK)
    words = [sys.executable, "-c", COMMAND, json.dumps(ENDS)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False)
    lines = done.stderr.splitlines()
    for where, how, told in ENDS:
        assert lines.pop(0).startswith(f"autoslim: {told}"), (where, how)
        assert lines.pop(0) == "status 2", (where, how)
    assert not lines


@pytest.mark.parametrize(("command", "status", "said"), [("profile", 3, "whole\n"), ("apply", 2, "")])
def test_a_command_that_ends_by_itself_keeps_its_status_and_one_that_is_left_does_not(command, status, said):
    done = subprocess.run([sys.executable, "-c", ENDING, command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (status, said), done.stderr
    assert done.stderr == (
        "" if said else "autoslim: something that the task runs called sys.exit(3); forward() and hooks must return or raise\n"
    )


@pytest.mark.parametrize("where", ["data", "later"])
def test_batches_that_leave_the_process_are_told_with_their_line(tmp_path, where):
    path = tmp_path / "bad.py"
    path.write_text(TASK)
    with pytest.raises(TaskFailed, match=r"task bad: data\('val'\) raised SystemExit: 3, line 4 of bad.py"):
        list(load(str(path), {"where": where, "how": "sys"}).batches("val"))


def test_a_process_that_ends_outside_of_the_task_is_an_internal_error():
    assert _guard.words_of("bench", "", -signal.SIGSEGV, False) == (
        "bench: the process ended without a word (signal SIGSEGV), in a library or in the network's own code; run again with --debug for the trace",
        1,
    )
    assert "out of memory" in _guard.words_of("bench", "", -signal.SIGKILL, True)[0]


def test_a_signal_that_is_sent_to_the_command_reaches_the_work():
    code = (
        "import signal, time\nfrom autoslim.cli import _guard\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs begin with it ignored
        "def act():\n    try:\n        print('ready', flush=True); time.sleep(60)\n    except KeyboardInterrupt:\n        return 130\n"
        "raise SystemExit(_guard.guarded(['apply'], act, False))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(30) == 130


@pytest.mark.parametrize("how", ["raise SystemExit(3)", "raise RuntimeError('two\\nlines')"])
def test_a_file_that_leaves_or_fails_while_it_is_loaded_is_one_line(tmp_path, how):
    path = tmp_path / "leaves.py"
    path.write_text(f"import sys\n{how}\n")
    with pytest.raises(Exception, match="task leaves.py: cannot be loaded, line 2: [^\n]*$"):
        load(str(path))
