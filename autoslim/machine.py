"""The locks that all of AutoSlim's processes on this machine share: work goes on together, a timing has the machine alone."""

import fcntl
import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoslim.errors import UserError

TICK = 0.05
#: where the locks lie, the first that there is: folders that every user of a machine may write to
FOLDERS = ("/tmp", "/var/lock")


def shared_folder() -> Path:
    """One folder per machine, whatever TMPDIR says: two folders would be two locks, and then nothing keeps timings apart. Where none of FOLDERS
    can be written to, the folder for temporary files."""
    for folder in map(Path, FOLDERS):
        if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    return Path(tempfile.gettempdir())


class Machine:
    """Shared by all of AutoSlim's processes on this machine: work goes on together, a timing has the machine alone.

    Two files hold advisory locks, which the system frees when a process dies. A process that wants to time takes ``gate``
    and then ``room`` exclusively; working processes hold ``room`` shared, and pass through ``gate`` at every pause, so that
    a waiting timer gets its turn.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or shared_folder()
        self._gate = self._open(folder / "autoslim.gate.lock")
        self._room = self._open(folder / "autoslim.room.lock")
        self._working = 0
        self._ticking = False

    @staticmethod
    def _open(path: Path) -> int:
        """A lock file, made where there is none. Raises UserError for one that may not be read, and for what is no file of its own: anybody may
        put a link there, and what it leads to must not be opened to all."""
        if path.is_symlink():
            raise UserError(f"{path}: got a link, allowed: a file, which keeps timings apart; remove the link")
        try:
            opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        except PermissionError:  # another user's file: a lock needs no more than to read it
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except PermissionError:
                raise UserError(
                    f"{path}: got no right to read it, which keeps timings apart; its owner must allow it (chmod a+r)"
                ) from None
        told = os.fstat(opened)
        if told.st_uid == os.geteuid() and told.st_nlink == 1:
            os.fchmod(opened, 0o666)  # whatever the umask: all users of the machine share it
        return opened

    def tick(self) -> None:
        """From now on pause by itself, twenty times a second, between any two steps of Python code in the main thread; so
        that a long export or a library's own loop does not hold up a timing. Main thread only."""
        signal.signal(signal.SIGALRM, lambda number, frame: self.pause())
        self._ticking = True

    def _beat(self, on: bool) -> None:
        if self._ticking:
            signal.setitimer(signal.ITIMER_REAL, TICK if on else 0.0, TICK if on else 0.0)

    def _enter(self) -> None:
        fcntl.flock(self._gate, fcntl.LOCK_SH)
        fcntl.flock(self._room, fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Hold the machine together with other workers; waits while a timing is under way."""
        if not self._working:
            self._enter()
            self._beat(True)
        self._working += 1
        try:
            yield
        finally:
            self._working -= 1
            if not self._working:
                self._beat(False)
                fcntl.flock(self._room, fcntl.LOCK_UN)

    def pause(self) -> None:
        """Let a waiting timer pass. Call it often while working; costs microseconds when nobody waits."""
        if not self._working:
            return
        try:
            fcntl.flock(self._gate, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            self._beat(False)  # else each beat would wait within the wait of the one before, until the stack is full
            fcntl.flock(self._room, fcntl.LOCK_UN)
            self._enter()
            self._beat(True)
        else:
            fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Have the machine for a timing: waits until all work pauses."""
        self._beat(False)
        if self._working:
            fcntl.flock(self._room, fcntl.LOCK_UN)
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._room, fcntl.LOCK_UN)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
            if self._working:
                self._enter()
                self._beat(True)
