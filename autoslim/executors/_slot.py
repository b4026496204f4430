"""A slot: one long-lived Ray Tune trial that keeps its worker warm and pulls items from the owner until it is told to stop."""

import os
import socket
import sys
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.executors import _files

#: seconds between signs of life, seconds that one pull may wait, seconds after which the owner counts as gone
BEAT, PULL, GONE = 1.0, 5.0, 60.0


class Stopped(Exception):
    """The owner told the slot to go."""


def slot(config: Mapping[str, Any]) -> None:
    """The trainable. ``config``: name, owner (actor handle), target (resource of the bench), bench and work (what it may do), make
    (makes the hands), folder (where the command runs)."""
    import ray

    if os.path.isdir(config["folder"]):
        os.chdir(config["folder"])
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # the worker process shall import what this one does
    Slot(config, ray).run()


class Slot:
    """One life of a slot."""

    def __init__(self, config: Mapping[str, Any], ray: Any) -> None:
        self._ray, self._owner = ray, config["owner"]
        node = ray.get_runtime_context().get_node_id()
        mine = next(one for one in ray.nodes() if one["NodeID"] == node)
        at_bench = config["target"] in mine["Resources"]
        self._bench, self._work = config["bench"] or at_bench, config["work"]
        self._id, self._epoch, self._beaten = f"{config['name']}:{uuid.uuid4().hex[:8]}", 0, 0.0
        self._hands = config["make"](config["name"], away=not at_bench)
        where = {"host": socket.gethostname(), "address": mine["NodeManagerAddress"], "node": node[:8], "pid": os.getpid()}
        self._tell(self._owner.hello.remote(self._id, {**where, "bench": at_bench, "work": self._work}))

    def _tell(self, reference: Any) -> Any:
        return self._ray.get(reference, timeout=GONE)

    def run(self) -> None:
        """Pull and do until told to stop. Raises where the owner is gone."""
        ended = None
        try:
            while True:
                bench, work = (self._bench, self._work) if self._hands.ready() else (False, False)
                told = self._tell(self._owner.next.remote(self._id, self._epoch, bench, work, ended, PULL))
                ended = None
                if told["stop"]:
                    return
                if told["setup"]:
                    self._hands.configure(self._tell(told["setup"][0]))
                    self._epoch = told["epoch"]
                if told["item"]:
                    number, verb, payload = told["item"]
                    ended = number, self._hands.do(verb, payload, self._beat, self._timed)
        except Stopped:
            return
        finally:
            self._hands.close()

    def _beat(self) -> None:
        if time.monotonic() - self._beaten > BEAT:
            self._beaten = time.monotonic()
            if not self._tell(self._owner.beat.remote(self._id)):
                raise Stopped

    def _timed(self, path: Path) -> tuple[str, Any]:
        """The times of a file, from the bench; waits for it as long as it takes."""
        number = self._tell(self._owner.ask.remote(self._id, "time", _files.pack(path.parent, [path])))
        while (reply := self._tell(self._owner.answer.remote(number, 2 * BEAT))) is None:
            self._beat()
        return ("ok", reply.value) if reply.kind == "ok" else ("error", f"timing on the bench: {reply.value}")
