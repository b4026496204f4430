"""Where a study is kept: a journal file, a database, or an Optuna gRPC proxy; and patience while a server is away."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import TrialState

from autoslim.errors import AutoSlimError, UserError

#: seconds for which a server may be away, and between two attempts
PATIENCE, PAUSE = 300.0, 1.0
#: errors that say that a server is away, by the names that SQLAlchemy and gRPC give them
AWAY = ("OperationalError", "InterfaceError", "_InactiveRpcError", "_MultiThreadedRendezvous")


def backend(folder: Path, storage: str | None) -> Any:
    """The storage object: a journal in ``folder`` by default, a journal path, an Optuna URL, or ``grpc://host:port``.

    Journal paths are made absolute: with a relative one, a lock left by kill -9 dangles and is waited for without end.
    """
    if storage is None or "://" not in storage:
        path = str((folder / "study.journal" if storage is None else Path(storage)).resolve())
        return JournalStorage(JournalFileBackend(path, lock_obj=JournalFileSymlinkLock(path)))
    try:
        opened = proxy(storage) if storage.startswith("grpc://") else optuna.storages.get_storage(storage)
    except Exception as error:  # drivers raise what they like; the user named the storage
        raise UserError(
            f"--storage: cannot open {hidden(storage)!r} ({type(error).__name__}: {' '.join(str(error).split())[:160]})"
        ) from None
    return opened if storage.startswith("sqlite") else Patient(opened)


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
        begun, failed = time.monotonic(), False
        while True:
            try:
                if failed and name == "create_new_trial" and (orphan := self._orphan(args[0])) is not None:
                    found = orphan
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
        if name == "create_new_trial":
            self._made.add(found)
        return found

    def _orphan(self, study: int) -> int | None:
        """A trial that an earlier attempt made and whose number never reached us: running, empty, and not one of ours."""
        running = self._inner.get_all_trials(study, deepcopy=False, states=(TrialState.RUNNING,))
        empty = [one for one in running if one._trial_id not in self._made and not one.params and not one.user_attrs]
        return empty[-1]._trial_id if empty else None


_CALLS = [name for name in dir(BaseStorage) if not name.startswith("_") and callable(getattr(BaseStorage, name))]
Patient = type("Patient", (_Patient, BaseStorage), {**{name: _patiently(name) for name in _CALLS}, "__doc__": _Patient.__doc__})

__all__ = ["Patient", "backend", "hidden", "is_away", "repair"]
