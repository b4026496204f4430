"""The process in which candidates are evaluated: ``python -m autoslim.worker FD CRUMBS``, spoken to over an inherited socket; crumbs of what the
task's code does lie in inherited memory.

Nothing of the user's code runs in the process that holds the study, so whatever a model does (crash, hang, fill the memory)
ends one candidate.
"""

import ctypes
import mmap
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from autoslim import crumbs
from autoslim.errors import AutoSlimError, UserError
from autoslim.machine import Machine


def die_with_parent() -> None:
    """On Linux, end when the parent is killed, even in the middle of a computation."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def serve(channel: Connection) -> None:
    """Answer requests until the other side closes."""
    evaluator: Any = None
    while True:
        try:
            verb, payload = channel.recv()
        except (EOFError, OSError):
            return
        try:
            if verb == "job":
                evaluator = start(payload, channel)
                answer = None
            elif verb == "prepare":
                answer = evaluator.prepare()
            elif verb == "attach":
                answer = evaluator.attach(payload)
            elif verb == "evaluate":
                answer = evaluator.evaluate(payload)
            elif verb == "base":
                answer = evaluator.base_tables()
            elif verb == "effect":
                answer = evaluator.effect(**payload)
            elif verb == "time":
                answer = evaluator.time(Path(payload), evaluator.untouched_file())
            elif verb == "verifier":
                evaluator = start_verifier(payload)
                answer = None
            elif verb == "check":
                answer = evaluator.check(**payload)
            elif verb == "clock":
                answer = evaluator.clock(**payload)
            else:
                answer = evaluator.verify(**payload)
            reply = ("ok", answer)
        except UserError as error:
            reply = ("user", str(error))
        except Exception as error:  # told to the owner, who decides; the trace is in this process's log
            traceback.print_exc()
            reply = ("error", f"{type(error).__name__}: {error}")
        channel.send(reply)


class Away:
    """Times a file on another machine: asks this process's owner, and lets this machine's own timings pass while it waits."""

    def __init__(self, channel: Connection, pause: Callable[[], None]) -> None:
        self._channel, self._pause = channel, pause

    def __call__(self, path: Path, untouched: Path) -> Any:
        self._channel.send(("time", str(path)))
        while not self._channel.poll(0.05):
            self._pause()
        kind, answer = self._channel.recv()
        if kind != "ok":
            raise AutoSlimError(answer)
        return answer


def start(job: Any, channel: Connection) -> Any:
    """The evaluator of a job; importing and loading count as work, which waits while something is timed."""
    with Machine().working():
        from autoslim import task
        from autoslim.evaluator import Evaluator

        evaluator = Evaluator(job, task.load(job.task, job.task_args, job.max_samples, job.part))
        evaluator.machine.tick()
        if job.away:
            evaluator.time = Away(channel, evaluator.machine.pause)
        return evaluator


def start_verifier(job: Any) -> Any:
    """What re-opens shipped files, in this process that made none of them."""
    with Machine().working():
        from autoslim import task
        from autoslim.verification import Verifier

        return Verifier(job, task.load(job.task, job.task_args, job.max_samples, job.part))


if __name__ == "__main__":
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    crumbs.leave_in(mmap.mmap(int(sys.argv[2]), crumbs.SIZE))
    serve(Connection(int(sys.argv[1])))
