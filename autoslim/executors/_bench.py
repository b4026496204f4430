"""Verification on the bench: the verifier's process runs there, files go to it, and it looks like a worker of this machine."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoslim.errors import AutoSlimError, UserError
from autoslim.executors import _cluster, _files
from autoslim.executors._hands import own_folder
from autoslim.executors._process import BEAT, Worker, nothing

#: how often a bench that went away is waited for before its question is given up
MOST_BENCHES = 3


class Bench:
    """The actor on the bench: one worker process in a folder of its own."""

    def __init__(self) -> None:
        self._folder = own_folder("verifier")
        self._worker = Worker(self._folder / "worker.log")

    def folder(self) -> str:
        return str(self._folder)

    def ask(self, verb: str, payload: Any, files: Mapping[str, tuple[str, bytes]]) -> tuple[str, Any]:
        """("ok", answer) or the kind of the error and its line; ``files`` are written first."""
        try:
            _files.unpack(self._folder, files)
            return "ok", self._worker.ask(verb, payload)
        except UserError as error:
            return "user", str(error)
        except AutoSlimError as error:
            return "error", str(error)

    def end(self) -> None:
        self._worker.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Remote:
    """``ask`` and ``kill`` of a worker process, done on the bench. Paths below ``out`` are files that are sent there once."""

    def __init__(self, options: Mapping[str, Any], bench: str, share: float, out: Path) -> None:
        self._ray = _cluster.connect(cpus=0, **options)
        self._bench, self._share, self._out = bench, share, out
        self._job: Any = None
        #: called now and then while an answer is waited for
        self.beat: Callable[[], None] = nothing
        self._begin()

    def _begin(self) -> None:
        self._actor = self._ray.remote(Bench).options(num_cpus=0, resources={self._bench: self._share}).remote()
        self._sent: dict[str, str] = {}
        self._folder: Path | None = None

    def ask(self, verb: str, payload: Any = None) -> Any:
        """As :meth:`Worker.ask`; a bench that goes away is waited for and told everything again."""
        for _ in range(MOST_BENCHES):
            try:
                kind, answer = self._asked(verb, payload)
                break
            except self._ray.exceptions.RayActorError:
                self._begin()
                if verb != "verifier" and self._job is not None:
                    self._asked("verifier", self._job)
        else:
            raise AutoSlimError(f"the bench {self._bench} was lost {MOST_BENCHES} times during one question")
        if kind == "user":
            raise UserError(answer)
        if kind == "error":
            raise AutoSlimError(answer)
        return answer

    def _asked(self, verb: str, payload: Any) -> tuple[str, Any]:
        if self._folder is None:
            self._folder = Path(self._ray.get(self._actor.folder.remote()))
        files: dict[str, tuple[str, bytes]] = {}
        if verb == "verifier":
            self._job, told = payload, replace(payload, out=str(self._folder))
        else:
            told = {name: self._there(value, files) for name, value in payload.items()}
        asked = self._actor.ask.remote(verb, told, files)
        while not self._ray.wait([asked], timeout=BEAT)[0]:
            self.beat()
        answer = self._ray.get(asked)
        self._sent |= {name: digest for name, (digest, _) in files.items()}
        return answer

    def _there(self, value: Any, files: dict[str, tuple[str, bytes]]) -> Any:
        """Where a path of this machine lies on the bench; what is not there yet is put into ``files``."""
        if isinstance(value, list):
            return [self._there(one, files) for one in value]
        if not isinstance(value, str) or not Path(value).is_absolute() or not Path(value).is_relative_to(self._out):
            return value
        packed = _files.pack(self._out, [Path(value)])
        files |= {name: told for name, told in packed.items() if self._sent.get(name) != told[0]}
        return str(self._folder / Path(value).relative_to(self._out))

    def kill(self) -> None:
        """End the worker on the bench; nothing is raised where it is gone already."""
        try:
            self._ray.get(self._actor.end.remote(), timeout=10)
        except Exception:  # gone already, or going: the connection's end takes it along
            pass
        finally:
            self._ray.shutdown()
