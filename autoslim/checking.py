"""The gate of a team's pipeline: a recipe on retrained weights, verified on the file that would ship, repaired if it no longer holds.

The task runs in worker processes: one makes the files, another, which made none of them, verifies.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoslim import plugins
from autoslim.budget import LIMITS, RATIO, Budget
from autoslim.candidate import Candidate, Done, Failed, Outcome
from autoslim.executors._process import Worker
from autoslim.job import UNTOUCHED, Job
from autoslim.recipe import Recipe, describe, to_yaml
from autoslim.repairing import NO_FILE, repair
from autoslim.spec import StudySpec

#: rounds of timing in verification; fewer where the ratio is known well
ROUNDS = 4


@dataclass(frozen=True)
class Judged:
    """One limit: what was measured, its 95 % interval where one is known, and the bound; ``holds`` by the end that is judged. ``value`` is
    None where nothing was measured, and ``bound`` where it is a share of what was not measured of the untouched model; neither holds."""

    name: str
    bound: float | None
    value: float | None
    low: float | None
    high: float | None
    holds: bool
    #: whether the three numbers are shares of the untouched model's time
    share: bool = False


@dataclass(frozen=True)
class Verdict:
    """What `autoslim check` found. ``reason`` says why there is no file, where there is none."""

    recipe: Recipe
    limits: tuple[Judged, ...] = ()
    row: dict[str, Any] = field(default_factory=dict)
    metric_name: str = ""
    file: str = ""
    reason: str = ""
    repaired: bool = False
    tried: int = 0

    @property
    def holds(self) -> bool:
        return not self.reason and all(limit.holds for limit in self.limits)

    @property
    def words(self) -> str:
        return describe(self.recipe)


class Gate:
    """Makes and verifies files of recipes for one task; close it, or use it as a context."""

    def __init__(self, spec: StudySpec, out: Path, say: Callable[[str], None]) -> None:
        self.out, self.say, self.budget = out, say, spec.limits()
        out.mkdir(parents=True, exist_ok=True)
        self.job = Job(
            spec.task, spec.task_args, spec.runtime, spec.resolved_threads(), str(out.resolve()), self.budget, spec.objectives,
            spec.space_content(), spec.seed, spec.max_samples, part=spec.part, places=spec.space_places(),
        )  # fmt: skip
        self.executor = plugins.load("executors", "local", job=self.job, workers=1)
        self.verifier: Worker | None = None
        self.count = 0

    def __enter__(self) -> "Gate":
        self.say("measuring the untouched model")
        self.prepared = self.executor.prepare()
        return self

    def __exit__(self, *_: object) -> None:
        self.executor.close()
        if self.verifier is not None:
            self.verifier.kill()

    def evaluate(self, recipe: Recipe) -> Outcome:
        """The recipe's file and its figures on validation data; measured whole, since it carries a label."""
        self.count += 1
        self.say(f"making {describe(recipe)}")
        self.executor.submit(Candidate(self.count, {}, recipe, "checked"))
        while True:
            for _, outcome in self.executor.outcomes(1.0):
                return outcome

    def verify(self, outcome: Done) -> dict[str, Any]:
        """The file's row of verification, from a process that made none of the files."""
        if self.verifier is None:
            self.verifier = Worker(self.out / "worker.log")
            self.verifier.ask("verifier", self.job)
        untouched = str(self.out.resolve() / f"{UNTOUCHED}{Path(outcome.model_file).suffix}")
        file = str(self.out.resolve() / outcome.model_file)
        self.say("verifying the file")
        row = self.verifier.ask("verify", {"file": file, "untouched": untouched, "expected": outcome.sha256})
        while row["rounds"] < ROUNDS and not row["converged"]:
            row |= self.verifier.ask("clock", {"files": [file], "untouched": untouched})[0] or {"converged": True}
        return row

    def verdict(self, recipe: Recipe, outcome: Outcome, first: Recipe) -> Verdict:
        """What verification says of one evaluated recipe."""
        if not isinstance(outcome, Done):
            reason = outcome.detail if isinstance(outcome, Failed) else f"rejected at {outcome.rung}"
            return Verdict(recipe, reason=reason, tried=self.count)
        row = self.verify(outcome)
        row |= {name: outcome.measurement.get(name) for name in ("macs", "params")}
        return Verdict(
            recipe, tuple(judged(self.budget, row, self.prepared)), row, self.prepared.metric_name, outcome.model_file,
            repaired=recipe.key != first.key, tried=self.count,
        )  # fmt: skip


def check(recipe: Recipe, spec: StudySpec, out: Path, repairs: int = 0, say: Callable[[str], None] = lambda text: None) -> Verdict:
    """Verify ``recipe`` on the task's model; with ``repairs`` above 0, try as many neighbours if a limit is broken. The file that was judged
    is left as ``out``/model.*, with its recipe.yaml."""
    with Gate(spec, out, say) as gate:
        found = gate.verdict(recipe, gate.evaluate(recipe), recipe)
        if not found.holds and repairs:
            found = repaired(gate, recipe, found, repairs)
        if found.file:
            keep(out, found)
    for folder in ("candidates", "bases"):
        shutil.rmtree(out / folder, ignore_errors=True)
    return found


def repaired(gate: Gate, recipe: Recipe, found: Verdict, most: int) -> Verdict:
    """The first neighbour that holds in verification; the verdict as it was if none does. Where no file could be made of the recipe, its
    neighbours are tried all the same; a limit that nobody measures is no matter of the recipe, so then none is."""
    unknown = [limit.name for limit in found.limits if limit.value is None or limit.bound is None]
    if unknown:
        gate.say(f"no repair is tried: the limit on {', '.join(unknown)} was not measured, which no other recipe mends")
        return found
    broken = {limit.name: overshoot(limit) for limit in found.limits}
    if found.reason:
        gate.say(f"no file could be made of the recipe ({found.reason}); its neighbours are tried")
        broken = dict(NO_FILE)
    for candidate, outcome in repair(gate.prepared.space, recipe, broken, gate.evaluate, most):
        other = gate.verdict(candidate, outcome, recipe)
        if other.holds:
            return other
    if gate.count == found.tried:
        gate.say("no repair was tried: the space knows no neighbour of the recipe; give another --space")
    return Verdict(**{**vars(found), "tried": gate.count})


def overshoot(limit: Judged) -> float:
    """By how much a limit is broken, as a share of it; at most 0 where it holds."""
    value = limit.high if limit.name != "max_drop" and limit.high is not None else limit.value
    return (value - limit.bound) / max(abs(limit.bound), 1e-9)


def judged(budget: Budget, row: dict[str, Any], prepared: Any) -> list[Judged]:
    """Each limit against the row: costs by the upper end of their interval, a share of the untouched time by the ratio, the drop by its value
    on the test split. A limit without a measurement does not hold."""
    found = []
    for name, (measured, _) in LIMITS.items():
        if name not in budget.limits:
            continue
        share = budget.judged_by(name) == RATIO
        bound = budget.threshold(name, prepared.untouched)
        told = row.get(RATIO if share else measured)
        if bound is None or told is None:
            found.append(Judged(name, bound, None, None, None, False))
            continue
        value, low, high = (told["value"], told["low"], told["high"]) if isinstance(told, dict) else (told, None, None)
        found.append(Judged(name, bound, value, low, high, (value if high is None else high) <= bound * (1 + 1e-9), share))
    if budget.max_drop is not None:
        lost, allowed = row["drop"], budget.max_drop.resolve(prepared.untouched.get("metric"))
        found.append(Judged("max_drop", allowed, lost["value"], lost["low"], lost["high"], lost["value"] <= allowed + 1e-9))
    return found


def keep(out: Path, found: Verdict) -> None:
    """The judged file and its recipe, at the top of the folder."""
    source = out / found.file
    source.replace(out / source.name)
    metadata = {"summary": found.words, "sha256": found.row["sha256"], "holds": found.holds}
    (out / "recipe.yaml").write_text(to_yaml(found.recipe, metadata), encoding="utf-8")
