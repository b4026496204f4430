"""Where a study is kept: a journal file, a database, or an Optuna gRPC proxy; and patience while a server is away."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from autoslim.errors import AutoSlimError, UserError

#: seconds for which a server may be away, and between two attempts
PATIENCE, PAUSE = 300.0, 1.0
#: user attribute of a trial that a broken call made once more
TWICE = "made_twice"
#: errors that say that a server is away, by the names that SQLAlchemy and gRPC give them
AWAY = ("OperationalError", "InterfaceError", "_InactiveRpcError", "_MultiThreadedRendezvous")


def backend(folder: Path, storage: str | None) -> Any:
    """The storage object: a journal in ``folder`` by default, a journal path, an Optuna URL, or ``grpc://host:port``.

    Journal paths are made absolute: with a relative one, a lock left by kill -9 dangles and is waited for without end.

    Raises UserError for a storage that cannot be opened.
    """
    journal = journal_of(folder, storage)
    if journal is not None:
        try:
            return JournalStorage(Journal(str(journal), lock_obj=JournalFileSymlinkLock(str(journal))))
        except OSError as error:
            raise UserError(
                f"--storage: got {str(journal)!r}, allowed: a journal in a folder that is there and can be written ({error.strerror}), or an Optuna URL"
            ) from None
    try:
        opened = proxy(storage) if storage.startswith("grpc://") else optuna.storages.get_storage(storage)
    except Exception as error:  # drivers raise what they like; the user named the storage
        raise UserError(
            f"--storage: cannot open {hidden(storage)!r} ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        ) from None
    return opened if storage.startswith("sqlite") else Patient(opened)


def refuse_missing(storage: str | None) -> None:
    """Raise UserError for a file that is not there: whoever only reads must not make it, as Optuna would."""
    if storage is None or "://" in storage and not storage.startswith("sqlite:///"):
        return
    path = Path(storage.removeprefix("sqlite:///").partition("?")[0])
    if not path.is_file():
        raise UserError(f"--storage: got {storage!r}, but there is no file {str(path)!r}; give the storage that the search was given")


@contextlib.contextmanager
def legible(folder: Path, storage: str | None) -> Iterator[None]:
    """Raises UserError where what is done within stumbles over a journal with lines of something else."""
    journal = journal_of(folder, storage)
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if journal is None or isinstance(error, UserError):
            raise
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
        raise UserError(
            f"{journal}: is no journal of studies, or is damaged ({told}); restore it from a copy, or give another --out"
        ) from error


def journal_of(folder: Path, storage: str | None) -> Path | None:
    """The journal file, absolute, or None where the storage is none: a URL."""
    if storage is not None and "://" in storage:
        return None
    return (folder / "study.journal" if storage is None else Path(storage)).resolve()


class Journal(JournalFileBackend):
    """Optuna's journal file, where what belongs together is one write: one lock, one append and at most one wait for the disk. Whoever
    reads, and a run after kill -9, finds all of it or nothing.

    Optuna reads back what it has just written. Lines that are gathered are given to it from memory, with the numbers that they will have in
    the file: the lock is held from the first to the last of them, so that nobody writes in between.
    """

    def __init__(self, path: str, lock_obj: Any) -> None:
        super().__init__(path, lock_obj)
        self._pending: list[bytes] | None = None

    @contextlib.contextmanager
    def gathered(self, sync: bool) -> Iterator[None]:
        """Within, what is written waits; at the end the file has it, and the disk too if ``sync``."""
        self._lock.acquire()
        try:
            self._catch_up()
            self._pending = []
            try:
                yield
                lines = self._pending
            finally:
                self._pending = None
            self._append(lines)
        finally:
            self._lock.release()
        if sync:
            with open(self._file_path, "ab") as file:
                os.fsync(file.fileno())

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write operations as lines, at once or, inside :meth:`gathered`, with the others. Raises OSError."""
        lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        if self._pending is not None:
            self._pending += lines
            return
        with self.gathered(sync=True):
            self._pending += lines

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Operations from a number on, those that are gathered and not written yet included."""
        known, pending = self._known(), self._pending
        if log_number_from < known or self._grown():
            yield from super().read_logs(log_number_from)
        if pending is not None:
            for line in pending[max(0, log_number_from - known) :]:
                yield json.loads(line)

    def _known(self) -> int:
        """Lines of the file whose places are known; Optuna notes the place of each line that it reads."""
        return len(self._log_number_offset) - 1

    def _grown(self) -> bool:
        return os.stat(self._file_path).st_size > self._log_number_offset[self._known()]

    def _catch_up(self) -> None:
        """Learn the places of lines that others have written."""
        if self._grown():
            for _ in super().read_logs(self._known()):
                pass

    def _append(self, lines: list[bytes]) -> None:
        """All lines or, where the disk is full, none: a part of a line would spoil the next one."""
        place = self._log_number_offset[self._known()]
        try:
            with open(self._file_path, "ab") as file:
                file.write(b"".join(lines))
        except OSError:
            os.truncate(self._file_path, place)
            raise
        for line in lines:
            place += len(line)
            self._log_number_offset[self._known() + 1] = place


def gathered(storage: BaseStorage, sync: bool) -> contextlib.AbstractContextManager[None]:
    """:meth:`Journal.gathered` where ``storage`` is a journal; elsewhere each write is a transaction of its own."""
    journal = getattr(storage, "_backend", None)
    return journal.gathered(sync) if isinstance(journal, Journal) else contextlib.nullcontext()


def proxy(url: str) -> Any:
    """A client of an Optuna gRPC proxy server. Raises where none answers."""
    place = urlsplit(url)
    opened = optuna.storages.GrpcStorageProxy(host=place.hostname or "localhost", port=place.port or 13000)
    opened.wait_server_ready(timeout=10)
    return opened


def hidden(url: str) -> str:
    """A storage URL without its password, which must not reach a screen or a report."""
    password = urlsplit(url).password
    return url.replace(f":{password}@", ":***@") if password else url


def repair(journal: Path) -> int:
    """Cut a torn last line (power loss in mid-write) off a journal; returns the bytes removed."""
    if not journal.is_file():
        return 0
    with journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        position = size
        while position > 0:
            start = max(0, position - 65536)
            file.seek(start)
            block = file.read(position - start)
            newline = block.rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < size:
            file.truncate(position)
        return size - position


def mend(folder: Path, storage: str | None) -> int:
    """:func:`repair` the journal, wherever it is; returns the bytes removed. For the holder of the study's lease, and under the file's own
    lock, since other studies may be written to the same file: what has no end of line then was left by a process that is gone."""
    journal = journal_of(folder, storage)
    if journal is None or not journal.is_file():
        return 0
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        return repair(journal)
    finally:
        lock.release()


def is_away(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that the server does not answer."""
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__name__ in AWAY:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _patiently(name: str) -> Callable[..., Any]:
    def call(self: "Patient", *args: Any, **kwargs: Any) -> Any:
        return self.attempt(name, args, kwargs)

    call.__name__ = name
    return call


class _Patient:
    """Repeats a call of ``inner`` while its server is away, up to PATIENCE seconds, and never does anything twice: a call may have
    reached the server before the connection broke. Only for studies with one writer. Raises AutoSlimError when patience ends."""

    def __init__(self, inner: BaseStorage, patience: float = PATIENCE) -> None:
        self._inner, self._patience = inner, patience
        self._made: set[int] = set()

    def attempt(self, name: str, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Make a call of the storage, again and again while its server is away, until it answers. Raises AutoSlimError after ``patience``
        seconds,
        and at once what is no sign of an absent server. A call whose first attempt did arrive counts once."""
        begun, failed = time.monotonic(), False
        while True:
            try:
                if name == "create_new_trial":
                    found = self._create(args, kwargs, failed)
                else:
                    found = getattr(self._inner, name)(*args, **kwargs)
                break
            except UpdateFinishedTrialError:
                if failed and name == "set_trial_state_values":  # the first attempt did reach the server
                    found = True
                    break
                raise
            except Exception as error:
                if not is_away(error):
                    raise
                spent = time.monotonic() - begun
                if spent > self._patience:
                    raise AutoSlimError(
                        f"the storage does not answer since {spent:.0f} s ({type(error).__name__}); run the same command again to go on"
                    ) from None
                if not failed:
                    logging.getLogger("autoslim").warning("autoslim: the storage does not answer; trying for %g s", self._patience)
                failed = True
                self._inner.remove_session()
                time.sleep(PAUSE)
        return found

    def _create(self, args: tuple, kwargs: dict[str, Any], failed: bool) -> int:
        """A new trial, or the one that an earlier attempt made, of this class (``failed``) or by Optuna's own repetition of a broken call;
        what was made once more than that is closed, with TWICE."""
        template = kwargs.get("template_trial", args[1] if len(args) > 1 else None)
        orphans = self._orphans(args[0], template) if failed else []
        if not orphans:
            made = self._inner.create_new_trial(*args, **kwargs)
            orphans = self._orphans(args[0], template) if made - 1 not in self._made else []
            orphans = sorted({*orphans, made})
        first, *more = orphans
        for trial in more:
            self._inner.set_trial_user_attr(trial, TWICE, True)
            self._inner.set_trial_state_values(trial, TrialState.FAIL)
        self._made.update(orphans)
        return first

    def _orphans(self, study: int, template: FrozenTrial | None) -> list[int]:
        """Trials that an earlier attempt made and whose numbers never reached us: running, not ours, and as the template is; oldest first."""
        params, attrs = (template.params, json.loads(json.dumps(template.user_attrs))) if template else ({}, {})
        running = self._inner.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,))
        same = (one for one in running if one.params == params and one.user_attrs == attrs)
        return sorted(one._trial_id for one in same if one._trial_id not in self._made)


_CALLS = [name for name in dir(BaseStorage) if not name.startswith("_") and callable(getattr(BaseStorage, name))]
Patient = type("Patient", (_Patient, BaseStorage), {**{name: _patiently(name) for name in _CALLS}, "__doc__": _Patient.__doc__})

__all__ = ["TWICE", "Journal", "Patient", "backend", "gathered", "hidden", "is_away", "journal_of", "mend", "repair"]
