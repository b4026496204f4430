"""Worker processes on this machine: a crash, a hang or a memory hog ends its candidate and nothing else."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from autoslim import crumbs
from autoslim.candidate import Candidate, Failed, Outcome
from autoslim.effects import hopeless
from autoslim.errors import AutoSlimError, UserError
from autoslim.executors._process import Worker, WorkerEnded, nothing, resident_tree
from autoslim.host import physical_cores, processors

#: worker processes that may share a processor
MOST_PER_PROCESSOR = 16


class Member:
    """``workers`` processes (default: one per physical core), each with its share of the cores; see the module."""

    def __init__(self, job: Any, workers: int = 0, trial_timeout: float = 0.0, trial_memory_mb: float = 0.0) -> None:
        if workers < 0:
            raise UserError(f"--workers: got {workers}, allowed: an integer from 1 (0 = one per physical core)")
        if workers > (most := MOST_PER_PROCESSOR * processors()):
            raise UserError(f"--workers: got {workers}, allowed: 0 (one per physical core) to {most}, {MOST_PER_PROCESSOR} per processor")
        self.slots = workers or physical_cores()
        self._job = replace(job, work_threads=max(1, physical_cores() // self.slots))
        self._timeout, self._memory = trial_timeout, trial_memory_mb * 1e6
        self._workers: list[Worker] = []
        self._prepared: Any = None
        self.say: Callable[[str], None] = lambda text: None
        #: called now and then while this waits for its workers
        self.beat: Callable[[], None] = nothing
        self.peak_bytes = 0  # all its processes are children of this one, which is weighed for the whole run

    def prepare(self) -> Any:
        """Start the workers; the first looks at the model and measures it while the others load."""
        self._workers = [Worker(Path(self._job.out) / "worker.log") for _ in range(self.slots)]
        try:
            for worker in self._workers:
                worker.channel.send(("job", self._job))
            self._prepared = self._first()
            for worker in self._workers[1:]:
                worker.answer()
                worker.ask("attach", self._prepared)
        except BaseException:
            self.close()
            raise
        return self._prepared

    def _first(self) -> Any:
        """What the first worker prepares. Raises UserError where the task's own code ended its process."""
        try:
            self._workers[0].answer()
            return self._workers[0].ask("prepare")
        except WorkerEnded as error:
            if not error.crumb:
                raise
            raise UserError(crumbs.ended(error.crumb, error.how)) from None

    def attach(self, prepared: Any) -> None:
        """Work with these facts, those of an earlier run of the same study where there was one."""
        self._prepared = prepared
        for worker in self._workers:
            worker.ask("attach", prepared)

    def _start(self) -> Worker:
        worker = Worker(Path(self._job.out) / "worker.log")
        try:
            worker.ask("job", self._job)
            if self._prepared is not None:
                worker.ask("attach", self._prepared)
        except BaseException:
            worker.kill()
            raise
        return worker

    def submit(self, candidate: Candidate) -> None:
        """Hand a candidate to a free worker. The caller keeps at most ``slots`` under way."""
        idle = next((worker for worker in self._workers if worker.candidate is None), None)
        if idle is None:
            idle = self._start()
            self._workers.append(idle)
        idle.candidate, idle.started = candidate, time.monotonic()
        idle.channel.send(("evaluate", candidate))

    def outcomes(self, seconds: float) -> Iterator[tuple[Candidate, Outcome]]:
        """Every candidate that ends within ``seconds``; returns after the first batch of ends."""
        stop = time.monotonic() + seconds
        while time.monotonic() < stop and (busy := [worker for worker in self._workers if worker.candidate]):
            ready = wait([worker.channel for worker in busy], timeout=min(0.2, max(0.0, stop - time.monotonic())))
            ended = [(worker, self._end(worker, worker.channel in ready)) for worker in busy]
            found = [(worker, outcome) for worker, outcome in ended if outcome is not None]
            for worker, outcome in found:
                candidate, worker.candidate = worker.candidate, None
                yield candidate, outcome
            if found:
                return

    def tables(
        self, items: list[dict[str, Any]], say: Callable[[str], None], enough: Callable[[], bool]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """(what the untouched layers cost, one answer per item); an item that ends its worker, or is stopped as a candidate would be,
        is answered as hopeless. Once ``enough`` says so, no further item is begun."""
        if not self._workers:  # the last one ended with its candidate
            self._workers.append(self._start())
        self._send(self._workers[0], ("base", None))
        base, waiting, found = None, list(items), []
        busy: dict[Worker, dict[str, Any] | None] = {
            self._workers[0]: None
        }  # None: what the untouched layers cost, which the others need not wait for
        while waiting or busy:
            if enough():
                waiting.clear()
            while len(self._workers) < min(self.slots, len(busy) + len(waiting)):
                self._workers.append(self._start())
            for worker in self._workers:
                if waiting and worker not in busy:
                    busy[worker], worker.started = waiting.pop(0), time.monotonic()
                    worker.channel.send(("effect", busy[worker]))
            ready = wait([worker.channel for worker in busy], timeout=0.2)
            for worker, item in list(busy.items()):
                if item is None:
                    if worker.channel in ready:
                        base = self._base(worker, list(busy))
                        del busy[worker]
                    continue
                answer = self._end(worker, worker.channel in ready)
                if answer is not None:
                    del busy[worker]
                    found.append(hopeless(item, answer.detail) if isinstance(answer, Failed) else answer)
                    say(f"measuring single choices: {len(found)} of {len(items)}")
        return base, found

    def _send(self, worker: Worker, message: tuple[str, Any]) -> None:
        """Raises WorkerEnded where the worker is gone."""
        try:
            worker.channel.send(message)
        except OSError:
            gone = worker.ended()
            self._drop(worker)
            raise gone from None

    def _base(self, worker: Worker, busy: list[Worker]) -> Any:
        """What the untouched layers cost; where that fails, what is under way ends with it."""
        try:
            return worker.answer(seconds=5.0)
        except AutoSlimError:
            for one in busy:
                self._drop(one)
            raise

    def _end(self, worker: Worker, ready: bool) -> Outcome | None:
        """How the worker's candidate ended, or None while it goes on."""
        spent = time.monotonic() - worker.started
        if ready:
            try:
                return worker.answer(seconds=5.0)
            except UserError:
                raise
            except AutoSlimError as error:
                self._drop(worker)
                return Failed("crash", str(error), {"total": round(spent, 3)})
        if self._timeout and spent > self._timeout:
            self._drop(worker)
            return Failed("timeout", f"longer than --trial-timeout {self._timeout:g} s", {"total": round(spent, 3)})
        if self._memory and (used := resident_tree(worker.process.pid)) > self._memory:
            self._drop(worker)
            return Failed("memory", f"{used / 1e6:.0f} MB, above --trial-memory-mb {self._memory / 1e6:g}", {"total": round(spent, 3)})
        return None

    def _drop(self, worker: Worker) -> None:
        worker.kill()
        self._workers.remove(worker)

    def close(self) -> None:
        """End all workers; candidates under way are lost to this run and closed as interrupted by the next."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def verifier(self) -> None:
        """Times count on this machine."""
