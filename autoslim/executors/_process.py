"""One worker process and the socket to it; memory of processes."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from autoslim.candidate import Candidate
from autoslim.errors import AutoSlimError, UserError

START_SECONDS = 600.0


class Worker:
    """One process and the socket to it."""

    def __init__(self, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self.log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "autoslim.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        theirs.close()
        self.channel = Connection(ours.detach())
        self.candidate: Candidate | None = None
        self.started = 0.0
        self.peak = 0

    def ask(self, verb: str, payload: Any = None, seconds: float = START_SECONDS) -> Any:
        """Send and wait. Raises UserError or AutoSlimError with the worker's reason."""
        try:
            self.channel.send((verb, payload))
        except OSError:
            raise AutoSlimError(f"a worker process ended ({how_ended(self.process)}); its log: {self.log}") from None
        return self.answer(seconds)

    def answer(self, seconds: float) -> Any:
        if not self.channel.poll(seconds):
            self.kill()
            raise AutoSlimError(f"a worker gave no answer for {seconds:g} s; its log: {self.log}")
        try:
            kind, payload = self.channel.recv()
        except (EOFError, OSError):
            raise AutoSlimError(f"a worker process ended ({how_ended(self.process)}); its log: {self.log}") from None
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


def how_ended(process: subprocess.Popen) -> str:
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its channel"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
