"""Long-lived slots on a Ray cluster, hosted by Ray Tune: each keeps a worker warm and pulls candidates from this process.

The study stays where the command runs. Accuracy and recovery go anywhere; times are taken only by workers that hold the resource
``bench:<target>``, one at a time. Without ``address`` a Ray of this machine alone is started and ended with the run.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoslim.candidate import Candidate, Done, Failed, Outcome
from autoslim.effects import hopeless
from autoslim.errors import AutoSlimError, UserError
from autoslim.executors import _cluster, _files
from autoslim.executors._bench import Remote
from autoslim.executors._hands import Maker, Reply, Setup
from autoslim.executors._host import Host
from autoslim.executors._ledger import Ledger
from autoslim.executors._owner import Owner
from autoslim.executors._process import nothing
from autoslim.host import physical_cores
from autoslim.job import UNTOUCHED

#: a bench slot takes a small share, so that several studies may wait at one bench; the machine-wide lock lets one time at once
SHARE = 0.01
#: seconds between looks at the slots, and before their absence is worth a word
LOOK, PATIENCE = 5.0, 20.0
MOST_SENDS = 3


class Member:
    """``workers`` slots (0: as many as the cluster's CPUs allow now) of ``cpus`` (0: this machine's cores shared out, one on a cluster),
    ``gpus`` and ``memory_mb`` each. ``target`` names the bench (default: the only one there is). ``dashboard`` starts Ray's, on
    loopback. ``runtime_env`` goes to Ray as it is. ``make`` makes a slot's hands."""

    def __init__(
        self,
        job: Any,
        workers: int = 0,
        trial_timeout: float = 0.0,
        trial_memory_mb: float = 0.0,
        address: str = "",
        target: str = "",
        cpus: int = 0,
        gpus: float = 0.0,
        memory_mb: float = 0.0,
        dashboard: bool = False,
        runtime_env: Mapping[str, Any] | None = None,
        make: Callable[..., Any] | None = None,
    ) -> None:
        if workers < 0:
            raise UserError(f"--workers: got {workers}, allowed: an integer from 1 (0 = as many as the cluster has cores for)")
        if target and not address and target != _cluster.LOCAL:
            raise UserError(
                f"--target: got {target!r}, which needs --address; without one the only bench is this machine, {_cluster.LOCAL!r}"
            )
        self.say: Callable[[str], None] = lambda text: None
        #: called now and then while this waits for an answer from the bench
        self.beat: Callable[[], None] = nothing
        self._out = Path(job.out).resolve()
        self._job = replace(job, task=absolute(job.task))
        self._options = {"address": address, "gpus": gpus, "dashboard": dashboard, "runtime_env": runtime_env}
        self._bundle = {"GPU": gpus} | ({"memory": memory_mb * 1e6} if memory_mb else {})
        self._cpus = cpus or (max(1, physical_cores() // (workers or physical_cores())) if not address else 1)
        self._make = make or Maker(trial_timeout, trial_memory_mb * 1e6, self._cpus)
        self._target, self.slots = target, workers or (0 if address else max(1, physical_cores() // self._cpus))
        self._ray: Any = None
        self._running: dict[int, tuple[Candidate, int]] = {}
        self._looked, self._told = 0.0, ""

    # -- the cluster ----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect and start the owner and the slots; returns before they are up."""
        options = self._options
        ray = self._ray = _cluster.connect(cpus=self._cpus * max(self.slots, 1), **options)
        bench = _cluster.bench_of(ray, self._target)
        self.slots = self.slots or max(1, int(ray.cluster_resources().get("CPU", 0) // self._cpus))
        self._owner = _cluster.beside_driver(ray, Owner, calls=1000).remote(Ledger())
        common = {"owner": self._owner, "target": bench, "make": self._make, "folder": str(Path.cwd())}
        places = [node for node in _cluster.nodes(ray) if node["Resources"].get("CPU", 0) >= self._cpus]
        slots = [
            ({**common, "name": f"slot-{number}", "bench": False, "work": True}, {"CPU": self._cpus, **self._bundle})
            for number in range(self.slots)
        ]
        if not places or any(bench not in node["Resources"] for node in places):  # else every slot times where it works
            slots.insert(0, ({**common, "name": "bench", "bench": True, "work": False}, {"CPU": 0, bench: SHARE}))
        self._host = _cluster.beside_driver(ray, Host).remote()
        self._hosting = self._host.run.remote(self._owner, slots)
        self._begun = time.monotonic()
        self._bench = bench
        if options["dashboard"] or options["address"]:
            self.say(f"Ray dashboard: {dashboard_url(ray) or 'not started'}")

    def close(self) -> None:
        """End all slots; candidates under way are lost to this run and closed as interrupted by the next."""
        if self._ray is None:
            return
        ray, self._ray = self._ray, None
        try:
            if hasattr(self, "_hosting"):
                self._look(ray)
                ray.get(self._owner.stop.remote(), timeout=5)
                ray.wait([self._hosting], timeout=10)
                ray.kill(self._host)
                ray.kill(self._owner)
        except Exception as error:  # the cluster may be gone; what is left ends with this connection
            self.say(f"ray: the slots could not be told to stop ({type(error).__name__})")
        finally:
            ray.shutdown()

    def verifier(self) -> Remote | None:
        """A worker process on the bench, over a connection of its own; None where the bench is this machine."""
        if self._bench == _cluster.BENCH + _cluster.LOCAL:
            return None
        return Remote(self._options, self._bench, SHARE, self._out)

    def _ends(self, seconds: float) -> list[tuple[int, Reply]]:
        """What ended; looks at the slots now and then. Raises AutoSlimError where the owner or all slots are gone for good."""
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            self._look(self._ray)
        try:
            return self._ray.get(self._owner.ends.remote(seconds), timeout=seconds + 60)
        except self._ray.exceptions.RayError as error:
            raise AutoSlimError(f"ray: the run's owner is gone ({type(error).__name__}); run the same command again") from None

    def state(self) -> dict[str, Any]:
        """The slots and what they do, as :meth:`Owner.state` tells."""
        return self._ray.get(self._owner.state.remote(), timeout=60)

    def _look(self, ray: Any) -> None:
        """Write ``workers.json``, and tell what keeps the work from going on."""
        state = ray.get(self._owner.state.remote(), timeout=60)
        state |= {"written": time.time(), "wanted": self.slots, "bench": self._bench, "nodes": len(_cluster.nodes(ray))}
        partial = self._out / "workers.json.partial"
        partial.write_text(json.dumps(state, indent=1), encoding="utf-8")
        partial.replace(self._out / "workers.json")
        done, _ = ray.wait([self._hosting], timeout=0)
        if done:
            raise AutoSlimError(f"ray: Tune ended and left no slot: {self._hosting_error()}; run the same command again")
        text = trouble(state, time.monotonic() - self._begun)
        if text and text != self._told:
            self.say(text)
        self._told = text

    def _hosting_error(self) -> str:
        try:
            return "; ".join(self._ray.get(self._hosting)) or "no error told"
        except Exception as error:  # whatever Tune raised, in one line
            return " ".join(str(error).split())[-300:]

    # -- the contract ---------------------------------------------------------------------------------------------------

    def prepare(self) -> Any:
        """Start everything; a worker on the bench looks at the model and measures it."""
        note = (self._out / UNTOUCHED).with_name("identity.json")
        try:
            self.open()
            self._configure(Setup(self._job, None, _files.pack(self._out, [note])))
            reply = self._call("prepare", None)
            _files.unpack(self._out, reply.files)
        except BaseException:
            self.close()
            raise
        prepared = reply.value
        if self._bench != _cluster.BENCH + _cluster.LOCAL:
            prepared = replace(prepared, identity={**prepared.identity, "target": self._bench.removeprefix(_cluster.BENCH)})
        self.attach(prepared)
        return prepared

    def attach(self, prepared: Any) -> None:
        """Work with these facts, those of an earlier run of the same study where there was one."""
        self._configure(Setup(self._job, prepared, _files.pack(self._out, (self._out / UNTOUCHED).parent.glob("*"))))

    def _configure(self, setup: Setup) -> None:
        self._ray.get(self._owner.configure.remote([self._ray.put(setup)]))

    def _put(self, verb: str, payload: Any, bench: bool = False) -> int:
        return self._ray.get(self._owner.put.remote(verb, payload, bench))

    def _call(self, verb: str, payload: Any) -> Reply:
        """One item on the bench, awaited."""
        number = self._put(verb, payload, bench=True)
        while True:
            self.beat()
            for ended, reply in self._ends(2.0):
                if ended == number:
                    return self._checked(reply)

    def _checked(self, reply: Reply) -> Reply:
        if reply.log:
            with (self._out / "worker.log").open("a", encoding="utf-8") as file:
                file.write(reply.log)
        if reply.kind == "user":
            raise UserError(reply.value)
        if reply.kind != "ok":
            raise AutoSlimError(f"{reply.value}; the end of the worker's log is in {self._out / 'worker.log'}")
        return reply

    def tables(
        self, items: list[dict[str, Any]], say: Callable[[str], None], enough: Callable[[], bool]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(what the untouched layers cost, one answer per item), as the local executor gives them."""
        base = self._call("base", None).value
        waiting, found = list(items), []
        busy: dict[int, dict[str, Any]] = {}
        while waiting or busy:
            if enough():
                waiting.clear()
            while waiting and len(busy) < 2 * self.slots:
                item = waiting.pop(0)
                busy[self._put("effect", item)] = item
            for number, reply in self._ends(0.5) if busy else ():
                item = busy.pop(number)
                try:
                    found.append(self._checked(reply).value)
                except UserError:
                    raise
                except AutoSlimError as error:
                    found.append(hopeless(item, str(error)))
                say(f"measuring single choices: {len(found)} of {len(items)}")
        return base, found

    def submit(self, candidate: Candidate) -> None:
        """Let a slot pull the candidate."""
        self._send(candidate, 1)

    def _send(self, candidate: Candidate, sends: int) -> None:
        self._running[self._put("evaluate", candidate)] = candidate, sends

    def outcomes(self, seconds: float) -> Iterator[tuple[Candidate, Outcome]]:
        """Every candidate that ends within ``seconds``; returns after the first batch of ends."""
        for number, reply in self._ends(seconds) if self._running else ():
            candidate, sends = self._running.pop(number)
            outcome = self._received(reply, last=sends >= MOST_SENDS)
            if outcome is None:
                self.say(f"trial {candidate.number}: its files arrived damaged and it is evaluated again")
                self._send(candidate, sends + 1)
            else:
                yield candidate, outcome

    def _received(self, reply: Reply, last: bool) -> Outcome | None:
        """The outcome, its files written below the output folder; None where they are not what they should be."""
        try:
            outcome = self._checked(reply).value
        except UserError:
            raise
        except AutoSlimError as error:
            return Failed("crash" if reply.kind == "lost" else "error", str(error))
        if not isinstance(outcome, Done):
            return outcome
        try:
            if reply.files.get(outcome.model_file, ("",))[0] != outcome.sha256:
                raise AutoSlimError(f"{outcome.model_file}: is not the file that was measured")
            _files.unpack(self._out, reply.files)
        except AutoSlimError as error:
            return Failed("error", str(error)) if last else None
        return outcome


def absolute(task: str) -> str:
    """A task's file with its whole path, since slots run elsewhere; modules and installed tasks as they are."""
    return str(Path(task).resolve()) if task.endswith(".py") else task


def dashboard_url(ray: Any) -> str:
    url = ray._private.worker.get_dashboard_url() if hasattr(ray, "_private") else None
    return f"http://{url}" if url else ""


def trouble(state: Mapping[str, Any], seconds: float) -> str:
    """One line on what keeps the work from going on, or nothing."""
    last = f"; last error of a slot: {state['mishaps'][-1].splitlines()[-1]}" if state["mishaps"] else ""
    fresh = [row for row in state["slots"] if row["silent_seconds"] < PATIENCE]
    if seconds > PATIENCE and not any(row["work"] for row in fresh):
        return f"no worker is up: {state['wanted']} slots wait for resources on {state['nodes']} nodes (`ray status` tells which){last}"
    if seconds > PATIENCE and state["waiting_for_bench"] and not any(row["bench"] for row in fresh):
        return (
            f"the bench {state['bench'].removeprefix(_cluster.BENCH)} is not there; {state['waiting_for_bench']} timings wait for it{last}"
        )
    return ""
