"""Where energy and memory come from: the device's own words, or this host's probe and counters; asked for without a source, refused."""

from pathlib import Path
from typing import Any

from autoslim.energy import POWERCAP, Counters
from autoslim.errors import DeviceFailed, UserError
from autoslim.job import Job
from autoslim.memory import Probe
from autoslim.metrics import Value


class Meters:
    """Fills in what a job asks for beside times. ``runtime`` is the job's own, loaded."""

    def __init__(self, job: Job, runtime: Any, root: Path = POWERCAP) -> None:
        self._job, self._runtime = job, runtime
        self.away = hasattr(runtime, "contest")  # files run elsewhere: what this machine uses is not what they use
        self.energy = "energy_mj" in job.objectives
        self.memory = "memory_mb" in job.budget.limits or "peak_memory_bytes" in job.objectives
        self._counters, self._probe = Counters(root), Probe(job)

    def start(self) -> None:
        """Begin loading what measures memory, so that the first answer does not wait for it."""
        if not self.away:
            self._probe.start()

    def refuse(self) -> None:
        """Raise UserError for energy that nothing here can measure."""
        if self.energy and not self.away and not self._counters:
            raise UserError(
                f"--objectives: energy_mj has no source: {POWERCAP} holds no counter that this user may read; "
                "give --target 'cmd:COMMAND {file}' whose JSON has energy_mj, or leave it out"
            )

    def energy_of(self, path: Path, inputs: Any) -> dict[str, Value]:
        """{"energy_mj"} of one run of a file on this machine, where it is asked for; the caller has the machine alone."""
        if not self.energy or self.away:
            return {}
        return {"energy_mj": self._counters.per_run(self._runtime.open(path, self._job.threads).bind(inputs))}

    def begin(self, path: Path) -> None:
        """Have the memory of a file measured by another process meanwhile."""
        if not self.away:
            self._probe.ask(path)

    def memory_of(self, path: Path) -> dict[str, Value]:
        """{"peak_memory_bytes"} of a file on this machine; nothing where files run elsewhere."""
        return {} if self.away else {"peak_memory_bytes": Value(self._probe.measure(path))}

    def asked(self, found: dict[str, Value]) -> dict[str, Value]:
        """``found``, if it has all that is asked for. Raises DeviceFailed."""
        wanted = [name for name, want in (("energy_mj", self.energy), ("peak_memory_bytes", self.memory)) if want and name not in found]
        if wanted:
            raise DeviceFailed(f"the command's JSON has no {wanted[0]}, which the study's objectives or limits ask for")
        return found
