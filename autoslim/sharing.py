"""A cache that several studies share: what one has measured, another takes over with its file. Wraps any executor."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from autoslim.candidate import Candidate, Done, Outcome
from autoslim.clock import sha256
from autoslim.job import Job
from autoslim.metrics import Measurement
from autoslim.study import pack

#: facts of the untouched model's measurement that must agree, since times of unlike machines do not mix
SAME = ("processor", "instruction_sets", "physical_cores", "versions", "threads", "batch", "samples")


class Shared:
    """An executor that looks into ``folder`` before it evaluates. Only candidates that were measured whole are kept; limits are judged
    anew, by this study's."""

    def __init__(self, inner: Any, job: Job, folder: Path) -> None:
        self._inner, self._job, self._root = inner, job, folder
        self._ready: list[tuple[Candidate, Outcome]] = []
        self._prepared: Any = None
        self.hits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def beat(self) -> Callable[[], None]:
        """What the executor calls now and then while it waits; given to the cache, it is the executor's."""
        return self._inner.beat

    @beat.setter
    def beat(self, value: Callable[[], None]) -> None:
        self._inner.beat = value

    def prepare(self) -> Any:
        """As the executor; what it returns says whose results are alike."""
        self._prepared = self._inner.prepare()
        return self._prepared

    def attach(self, prepared: Any) -> None:
        self._prepared = prepared
        self._inner.attach(prepared)

    def submit(self, candidate: Candidate) -> None:
        """Answer from the cache, or let the executor work."""
        known = self._look(candidate)
        if known is None:
            self._inner.submit(candidate)
        else:
            self.hits += 1
            self._ready.append((candidate, known))

    def outcomes(self, seconds: float) -> Iterator[tuple[Candidate, Outcome]]:
        """What the cache knew at once, else what ended within ``seconds``, which the cache keeps."""
        if self._ready:
            ready, self._ready = self._ready, []
            yield from ready
            return
        for candidate, outcome in self._inner.outcomes(seconds):
            self._keep(candidate, outcome)
            yield candidate, outcome

    # -- the folder -----------------------------------------------------------------------------------------------------

    def _folder(self, key: str) -> Path:
        """Where a recipe's result lies: one folder for all that makes results alike."""
        facts = self._prepared.untouched.facts
        alike = {
            "identity": dict(self._prepared.identity),
            "untouched": self._prepared.untouched_sha256,
            "facts": {name: facts.get(name) for name in SAME},
            "memory": "peak_memory_bytes" in self._job.objectives or "memory_mb" in self._job.budget.limits,
            **({"energy": True} if "energy_mj" in self._job.objectives else {}),
        }
        digest = hashlib.sha256(json.dumps(alike, sort_keys=True, default=str).encode()).hexdigest()[:16]
        return self._root / digest / key

    def _keep(self, candidate: Candidate, outcome: Outcome) -> None:
        """Store a whole measurement and its file; the folder appears with both or not at all. A cache that cannot be written to, such as a full
        disk, is told and ends no search."""
        if not isinstance(outcome, Done):
            return
        target, source = self._folder(candidate.recipe.key), Path(self._job.out) / outcome.model_file
        if target.exists() or not source.is_file():
            return
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        record = pack(outcome, {"key": candidate.recipe.key, "recipe": candidate.recipe.as_dict()}, None)
        try:
            partial.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, partial / source.name)
            (partial / "outcome.json").write_text(json.dumps(record), encoding="utf-8")
            partial.rename(target)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if not target.exists():  # else another study was faster
                self._inner.say(f"--cache {self._root}: candidate {candidate.number} is not kept ({error.strerror or error})")

    def _look(self, candidate: Candidate) -> Done | None:
        """A stored result with its file in place, or None; a file that is not what its hash says is no result."""
        folder = self._folder(candidate.recipe.key)
        if not (folder / "outcome.json").is_file():
            return None
        record = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
        source, target = folder / Path(record["model_file"]).name, Path(self._job.out) / record["model_file"]
        if not source.is_file() or sha256(source) != record["sha256"]:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        found = Measurement.from_dict(record["measurement"])
        broken = self._job.budget.violations(found, self._prepared.untouched, self._prepared.metric_direction)
        notes = (*record["notes"], "measured by another study of the same cache")
        return Done(found, broken, record["model_file"], record["sha256"], candidate.recipe, {"cache": 0.0}, notes)
