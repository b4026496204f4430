"""One worker process and the socket to it; memory of processes."""

import contextlib
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from autoslim import crumbs
from autoslim.candidate import Candidate
from autoslim.errors import AutoSlimError, UserError

#: seconds between two signs of life of whoever waits for a worker
BEAT = 1.0


class WorkerEnded(AutoSlimError):
    """A worker's process ended without an answer: ``how``; ``crumb`` is what of the task's code ran then, empty if none did."""

    def __init__(self, how: str, crumb: str, log: Path) -> None:
        super().__init__(f"a worker process ended ({how}){f' while {crumb} ran' if crumb else ''}; its log: {log}")
        self.how, self.crumb = how, crumb


class Worker:
    """One process and the socket to it."""

    def __init__(self, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self.log = log
        shared = os.memfd_create("crumbs")
        os.ftruncate(shared, crumbs.SIZE)
        self._crumbs = mmap.mmap(shared, crumbs.SIZE)
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autoslim.worker", str(theirs.fileno()), str(shared)],
                pass_fds=[theirs.fileno(), shared],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        theirs.close()
        os.close(shared)
        self.channel = Connection(ours.detach())
        self.candidate: Candidate | None = None
        self.started = 0.0
        #: called now and then while an answer is waited for
        self.beat: Callable[[], None] = nothing

    def ask(self, verb: str, payload: Any = None) -> Any:
        """Send and wait as long as the process lives: loading, scoring and timing take what the data takes. Raises UserError or AutoSlimError
        with the worker's reason."""
        try:
            self.channel.send((verb, payload))
        except OSError:
            raise self.ended() from None
        return self.answer()

    def ended(self) -> WorkerEnded:
        """The error of a process that is gone."""
        return WorkerEnded(how_ended(self.process), crumbs.last(self._crumbs), self.log)

    def answer(self, seconds: float = math.inf) -> Any:
        """What the worker answers, within ``seconds``; raises as :meth:`ask`."""
        stop = time.monotonic() + seconds
        while not self.channel.poll(min(BEAT, max(0.0, stop - time.monotonic()))):
            if time.monotonic() >= stop:
                self.kill()
                raise AutoSlimError(f"a worker gave no answer for {seconds:g} s; its log: {self.log}")
            self.beat()
        try:
            kind, payload = self.channel.recv()
        except (EOFError, OSError):
            raise self.ended() from None
        if kind == "user":
            raise UserError(payload)
        if kind == "error":
            raise AutoSlimError(f"{payload}; the trace is in {self.log}")
        return payload

    def kill(self) -> None:
        """End the process and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.channel.close()


def nothing() -> None:
    """No sign of life is wanted."""


def resident_tree(pid: int | None = None) -> int:
    """Resident bytes of a process (default: this one) and all its children, now; pages that they share count once where
    the system tells (proportional set size)."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            try:
                told = process.memory_full_info()
                total += getattr(told, "pss", told.rss)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
    except psutil.NoSuchProcess:
        return 0
    return total


class Scales:
    """The most memory that this process and all its children took while the context was open, sampled about once a second in a thread."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.peak_bytes = 0
        self._seconds, self._over = seconds, threading.Event()
        self._thread = threading.Thread(target=self._weigh, name="scales", daemon=True)

    def _weigh(self) -> None:
        while not self._over.wait(self._seconds):
            self.peak_bytes = max(self.peak_bytes, resident_tree())

    def __enter__(self) -> "Scales":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def how_ended(process: subprocess.Popen) -> str:
    """In words how a process ended, waiting up to 5 s for its end."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its channel"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
