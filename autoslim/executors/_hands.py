"""What a slot works with: one worker process in a folder of its own, kept warm from one item to the next."""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from autoslim.candidate import Candidate, Done, Failed
from autoslim.clock import remove
from autoslim.effects import hopeless
from autoslim.errors import AutoSlimError
from autoslim.executors import _files
from autoslim.executors._process import Worker, how_ended, resident_tree
from autoslim.job import UNTOUCHED, Job, Prepared

POLL = 0.2
LOG_BYTES = 4000
#: bytes that must be free on a slot's disk before it takes work
ROOM = 32_000_000


@dataclass(frozen=True)
class Reply:
    """How an item ended. ``kind``: "ok" with the verb's answer, "user" or "error" with a line, "again" where the fault is the slot's own,
    "lost" from the ledger. ``files`` as :func:`_files.pack` gives them; ``log``, where something failed, the end of what the worker's log
    says and no reply has told yet."""

    kind: str
    value: Any = None
    files: Mapping[str, tuple[str, bytes]] = field(default_factory=dict)
    log: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Setup:
    """What every slot must know: the job, what preparation found (None before), and files to put below the job's folder."""

    job: Job
    prepared: Prepared | None
    files: Mapping[str, tuple[str, bytes]]


@dataclass(frozen=True)
class Maker:
    """Makes a slot's Hands on the machine where they work: limits of a candidate (0 = none) and threads of work."""

    timeout: float = 0.0
    memory: float = 0.0
    threads: int = 1

    def __call__(self, name: str, away: bool) -> "Hands":
        return Hands(own_folder(name), self.timeout, self.memory, self.threads, away)


class Hands:
    """Does one item at a time. ``beat`` is called a few times a second while work goes on and may raise to abandon it; ``timed`` asks
    the bench for the times of a file, where this machine does not take them itself (``away``)."""

    def __init__(self, folder: Path, timeout: float, memory: float, threads: int, away: bool) -> None:
        self.folder, self._timeout, self._memory, self._threads, self._away = folder, timeout, memory, threads, away
        self._log = folder / "worker.log"
        self._setup: Setup | None = None
        self._worker: Worker | None = None
        self._due, self._told = 0, 0

    def configure(self, setup: Setup) -> None:
        """Take over the job and what was prepared; a worker of another job ends. The worker starts at once, so that it is warm when the
        first item comes, while others still prepare."""
        if self._setup is None or self._setup.job != setup.job:
            self.drop()
        _files.unpack(self.folder, setup.files)
        self._setup = setup
        try:
            if self._worker is None:
                self._begin()
            elif setup.prepared is not None:
                self._tell("attach", setup.prepared)
        except OSError:  # it has died meanwhile; the next item gets another
            self.drop()

    def ready(self) -> bool:
        """Whether there is room on the disk; tries to make some."""
        if shutil.disk_usage(self.folder).free > ROOM:
            return True
        for name in ("bases", "candidates", "tables", "timing"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        return shutil.disk_usage(self.folder).free > ROOM

    def do(self, verb: str, payload: Any, beat: Callable[[], None], timed: Callable[[Path], tuple[str, Any]]) -> Reply:
        """The item's end. Raises only what ``beat`` raises."""
        begun, elsewhere = time.monotonic(), 0.0
        try:
            worker = self._warm(beat)
            worker.channel.send((verb, self._placed(verb, payload)))
            while True:
                if worker.channel.poll(POLL):
                    kind, answer = worker.channel.recv()
                    if kind != "time":
                        return self._reply(verb, payload, kind, answer, time.monotonic() - begun)
                    asked = time.monotonic()
                    worker.channel.send(timed(Path(answer)))
                    elsewhere += time.monotonic() - asked
                beat()
                if verb in ("evaluate", "effect") and (over := self._over(worker, time.monotonic() - begun - elsewhere)):
                    return self._failed(verb, payload, over)
        except (EOFError, ConnectionError):
            spent = time.monotonic() - begun
            detail = f"a worker process ended ({how_ended(worker.process)}); the end of its log is in worker.log"
            return self._failed(verb, payload, Failed("crash", detail, {"total": round(spent, 3)}))
        except OSError as error:
            self.drop()
            return Reply("again" if error.errno == errno.ENOSPC else "error", f"{type(error).__name__}: {error}", log=self._tail())
        except AutoSlimError as error:
            return Reply("error", str(error), log=self._tail())

    def close(self) -> None:
        """End the worker and remove the folder."""
        self.drop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def drop(self) -> None:
        """End the worker process, if there is one."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    # -- parts ----------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Start a worker and tell it what it must know."""
        self._worker, self._due = Worker(self._log), 0
        self._tell("job", replace(self._setup.job, out=str(self.folder), work_threads=self._threads, away=self._away))
        if self._setup.prepared is not None:
            self._tell("attach", self._setup.prepared)

    def _tell(self, verb: str, payload: Any) -> None:
        """What the worker is told before its next item; its answer is due before that item begins."""
        self._worker.channel.send((verb, payload))
        self._due += 1

    def _warm(self, beat: Callable[[], None]) -> Worker:
        """The worker, when it has taken in all that it was told; one that died while it had nothing to do is replaced."""
        if self._worker is not None and self._worker.process.poll() is not None:
            self.drop()
        if self._worker is None:
            self._begin()
        while self._due:
            while not self._worker.channel.poll(POLL):  # of a process that ended there is an end to read
                beat()
            try:
                self._worker.answer(0)
            except BaseException:
                self.drop()
                raise
            self._due -= 1
        return self._worker

    def _placed(self, verb: str, payload: Any) -> Any:
        """What the worker is sent: files that came along are written first."""
        if verb != "time":
            return payload
        _files.unpack(self.folder / "timing", payload)
        return str(self.folder / "timing" / next(iter(payload)))

    def _over(self, worker: Worker, spent: float) -> Failed | None:
        """The end of an item that takes too long or too much."""
        if self._timeout and spent > self._timeout:
            return Failed("timeout", f"longer than --trial-timeout {self._timeout:g} s", {"total": round(spent, 3)})
        if self._memory and (used := resident_tree(worker.process.pid)) > self._memory:
            detail = f"{used / 1e6:.0f} MB, above --trial-memory-mb {self._memory / 1e6:g}"
            return Failed("memory", detail, {"total": round(spent, 3)})
        return None

    def _failed(self, verb: str, payload: Any, end: Failed) -> Reply:
        """The reply for an item whose worker is gone or must go."""
        self.drop()
        if verb == "evaluate":
            remove(self._made(payload))
            return Reply("ok", end, log=self._tail(), seconds=end.seconds["total"])
        if verb == "effect":
            return Reply("ok", hopeless(payload, end.detail), log=self._tail(), seconds=end.seconds["total"])
        return Reply("error", end.detail, log=self._tail())

    def _reply(self, verb: str, payload: Any, kind: str, answer: Any, seconds: float) -> Reply:
        """The reply for what the worker answered, with the files that were made."""
        if kind != "ok":
            full = kind == "error" and is_full(answer)
            return Reply("again" if full else kind, answer, log=self._tail(), seconds=seconds)
        files: dict[str, tuple[str, bytes]] = {}
        if verb == "prepare":
            self._setup = replace(self._setup, prepared=answer)
            files = _files.pack(self.folder, (self.folder / UNTOUCHED).parent.glob("*"))
        elif verb == "evaluate":
            if isinstance(answer, Failed) and is_full(answer.detail):
                remove(self._made(payload))
                return Reply("again", answer.detail, log=self._tail())
            if isinstance(answer, Done):
                files = _files.pack(self.folder, sorted(self._made(payload).glob("*")))
            remove(self._made(payload))
        elif verb == "time":
            shutil.rmtree(self.folder / "timing", ignore_errors=True)
        return Reply(kind, answer, files, seconds=seconds)

    def _made(self, candidate: Candidate) -> Path:
        return self.folder / "candidates" / candidate.recipe.key

    def _tail(self) -> str:
        """The end of the worker's log, what was told before left out."""
        if not self._log.is_file():
            return ""
        with self._log.open("rb") as file:
            file.seek(max(self._told, self._log.stat().st_size - LOG_BYTES))
            text = file.read().decode(errors="replace")
            self._told = file.tell()
        return text


def is_full(detail: str) -> bool:
    """Whether an error says that a disk is full."""
    return os.strerror(errno.ENOSPC) in detail or f"[Errno {errno.ENOSPC}]" in detail


def own_folder(name: str) -> Path:
    """A new folder of a slot on this machine's disk; those of slots that were killed are removed. A live one is known by its lock,
    which the system frees with the process."""
    root = Path(os.environ.get("AUTOSLIM_SLOTS") or Path(tempfile.gettempdir()) / f"autoslim-slots-{os.getuid()}")
    root.mkdir(parents=True, exist_ok=True)
    for folder in root.glob("*"):
        sweep(folder)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
    descriptor = os.open(folder / "slot.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)  # held as long as this process lives
    return folder


def sweep(folder: Path) -> None:
    """Remove a slot's folder if its process is gone; one without a lock is just being made."""
    try:
        descriptor = os.open(folder / "slot.lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)
