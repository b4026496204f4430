"""Recipe -> Done, Rejected or Failed, in rungs, the cheapest first. One evaluator lives in each worker process.

Rungs: "predicted" (the compressed structure: MACs, and the bytes that the weights alone need), "timed" (exported before any recovery,
bytes and latency of the file; only where such a limit binds), "quick" (part of the validation data), "full" (recovered,
exported, all of the validation data, timed). A rejected candidate has paid for the rungs it climbed and no more.
"""

import functools
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoslim import coverage, host, offers, plugins, timing
from autoslim.budget import drop, feasible
from autoslim.candidate import Candidate, Done, Failed, Outcome, Rejected
from autoslim.engine import Draft, compress
from autoslim.errors import ExportFailed, Untreatable, UserError
from autoslim.importance import second_moments
from autoslim.inputs import Inputs, batch_size, call, rows
from autoslim.job import UNTOUCHED, Job, Prepared
from autoslim.layers import count
from autoslim.memory import Probe
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, to_yaml
from autoslim.recovery import Lesson, Reference, recover
from autoslim.structure import Structure
from autoslim.task import AGREEMENT, Score, Task

LESSON_BATCH, LESSONS, HELD, CALIBRATION = 32, 1024, 256, 256


class Evaluator:
    """Holds the task, the model and the untouched file open; evaluates one candidate after the other."""

    def __init__(self, job: Job, task: Task) -> None:
        torch.set_num_threads(job.work_threads)
        self.job, self.task = job, task
        self.out = Path(job.out)
        self.machine = timing.Machine()
        self.runtime = plugins.load("runtimes", job.runtime)
        self.model = task.model()
        self.example = task.example_input()
        self._learned: tuple[list[Lesson], list[Lesson], list[Inputs]] | None = None
        self._moments: Mapping[str, torch.Tensor] | None = None
        self.prepared: Prepared | None = None
        self.memory = Probe(job)

    # -- preparation ----------------------------------------------------------------------------------------------------

    def prepare(self) -> Prepared:
        """Look at the model, ship it untouched, measure that file, and build the search space."""
        clock = Clock()
        self.refuse_unlike()
        with self.machine.working():
            with clock("analysis"):
                structure = coverage.analyse(self.model, self.example)
                spec = self.space_spec(structure)
                space, notes = offers.build(spec, structure, self.runtime.supports)
                techniques = offers.members(spec)
                self.refuse_unknown_students(spec)
            with clock("baseline"):
                path = self.out / f"{UNTOUCHED}{self.runtime.suffix}"
                draft = Draft(self.model, structure, self.example)
                extra = self.runtime.export(draft, self.example, [], path, **self.shapes())
                (path.parent / "recipe.yaml").write_text(to_yaml(Recipe()), encoding="utf-8")
                targets = self.has_targets
                params, macs = count(self.model, self.example)
                direction = "max" if not targets else next(iter(self.task.metrics.values()))
                score = self.score(path, path, None)
                measured = self.time(path, path)
            values = {
                "metric": self.metric_value(score),
                **measured,
                "size_bytes": Value(path.stat().st_size),
                "macs": Value(macs),
                "params": Value(params),
            }
            if self.needs_memory():
                values["peak_memory_bytes"] = Value(self.memory.measure(path))
        untouched = Measurement(
            values,
            others_of(score),
            {**host.facts(), "threads": self.job.threads, "batch": batch_size(self.task.latency_input), "samples": score.n},
            structure.not_counted,
        )
        self.prepared = Prepared(
            structure,
            space,
            coverage.report(structure, techniques),
            untouched,
            sha256(path),
            next(iter(self.task.metrics)) if targets else AGREEMENT,
            direction,
            targets,
            (*notes, *extra),
            clock.seconds,
            self.identity(),
        )
        return self.prepared

    def refuse_unknown_students(self, spec: Mapping[str, Any]) -> None:
        """Raise UserError for a builder that the task does not have, before anything is evaluated."""
        known = self.task.students(self.model)
        for value in spec["techniques"].get("student", {}).get("values") or ():
            if isinstance(value, Mapping) and "builder" in value and value["builder"] not in known:
                raise UserError(
                    f"space: student builder is {value['builder']!r}, allowed: {', '.join(known) or 'none; the task defines no students()'}"
                )

    def refuse_unlike(self) -> None:
        """Raise UserError if the folder holds the untouched file of something else, before that file is written again."""
        note = (self.out / UNTOUCHED).with_name("identity.json")
        mine = self.identity()
        if note.is_file():
            known = json.loads(note.read_text(encoding="utf-8"))
            if known != mine:
                other = ", ".join(name for name in mine if mine[name] != known.get(name))
                raise UserError(
                    f"{self.out}: the study here was begun with another {other}; results of unlike things do not mix, give another --out"
                )
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(mine, sort_keys=True) + "\n", encoding="utf-8")

    def identity(self) -> dict[str, Any]:
        """What must be the same for two runs to be one study."""
        digest = hashlib.sha256()
        for name, value in self.model.state_dict().items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy() if value.dim() else repr(value.item()).encode())
        return {
            "task": self.task.fingerprint(),
            "weights": digest.hexdigest()[:16],
            "runtime": self.job.runtime,
            "threads": self.job.threads,
            "part": self.job.part or "",
        }

    def attach(self, prepared: Prepared) -> None:
        """Take over what another worker prepared."""
        self.prepared = prepared

    def space_spec(self, structure: Structure) -> Mapping[str, Any]:
        """The space file's content; "auto" picks the shipped space of the network's family."""
        if "auto" not in self.job.space:
            return self.job.space
        return self.job.space["auto"][offers.family(structure)]

    @functools.cached_property
    def has_targets(self) -> bool:
        return self.task.has_targets()

    def shapes(self) -> dict[str, Any]:
        found = self.task.dynamic_shapes
        return {} if found is None else {"dynamic_shapes": found}

    def needs_memory(self) -> bool:
        return "memory_mb" in self.job.budget.limits or "peak_memory_bytes" in self.job.objectives

    # -- one candidate --------------------------------------------------------------------------------------------------

    def evaluate(self, candidate: Candidate) -> Outcome:
        """The candidate's end. Never raises for what a recipe or a runtime can do wrong."""
        clock = Clock()
        try:
            with self.machine.working():
                return self._climb(candidate, clock)
        except Untreatable as error:
            return Failed("export" if isinstance(error, ExportFailed) else "untreatable", str(error), clock.seconds)
        except UserError:
            raise
        except MemoryError:
            return Failed("memory", "the process ran out of memory", clock.seconds)
        except Exception as error:  # a stranger's model: whatever it raises is this candidate's end, with its reason
            return Failed("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", clock.seconds)

    def _climb(self, candidate: Candidate, clock: "Clock") -> Outcome:
        recipe, early = candidate.recipe, not candidate.label
        folder = self.out / "candidates" / recipe.key
        path = folder / f"model{self.runtime.suffix}"
        lessons, held, calibration = self.learning_data()
        with clock("compress"):
            draft = compress(
                self.model,
                recipe,
                calibration,
                structure=self.prepared.structure,
                moments=self.moments(calibration),
                students=self.task.students(self.model),
            )
            params, macs = count(draft.model, self.example)
        values = {"params": Value(params), "macs": Value(macs)}
        if early and (end := self.stop("predicted", {**values, "size_bytes": Value(payload_bytes(draft))}, recipe, clock)):
            return end
        if early and self.binding():
            with clock("export"):
                early_base = path.with_name(f"early{self.runtime.suffix}")
                self.runtime.export(replace(draft, bits={}), self.example, calibration, early_base, **self.shapes())
                self.runtime.finish(draft, early_base, calibration, path)
                early_base.unlink()
            with clock("time"):
                timed = self.time(path, self.untouched_file())
                if self.needs_memory():
                    timed["peak_memory_bytes"] = Value(self.memory.measure(path))
            if end := self.stop("timed", {**values, **timed, "size_bytes": Value(path.stat().st_size)}, recipe, clock):
                remove(folder)
                return end
        base = self.base(recipe)
        notes: list[str] = []
        if not base.is_file():
            with clock("recover"):
                notes = recover(
                    draft,
                    self.model,
                    lessons,
                    held,
                    recipe.recovery,
                    loss=self.task.loss() if self.has_targets else None,
                    known=self.reference,
                    pause=self.machine.pause,
                    seed=self.job.seed,
                )
        with clock("export"):
            if not base.is_file():
                notes += self.runtime.export(replace(draft, bits={}), self.example, calibration, base, **self.shapes())
            notes += draft.notes + list(self.runtime.finish(draft, base, calibration, path))
        values["size_bytes"] = Value(path.stat().st_size)
        with clock("score"):
            score = self.score(path, self.untouched_file(), candidate if early else None)
        values["metric"] = self.metric_value(score)
        if score.n < self.prepared.untouched.facts["samples"]:
            remove(folder)
            found = self.measurement(values, score)
            return Rejected("quick", found, self.violations(found), recipe, clock.seconds)
        with clock("time"):
            values |= self.time(path, self.untouched_file())
            if self.needs_memory():
                values["peak_memory_bytes"] = Value(self.memory.measure(path))
        found = self.measurement(values, score)
        (folder / "recipe.yaml").write_text(to_yaml(recipe, {"key": recipe.key, "task": self.task.name}), encoding="utf-8")
        return Done(found, self.violations(found), str(path.relative_to(self.out)), sha256(path), recipe, clock.seconds, tuple(notes))

    def base(self, recipe: Recipe) -> Path:
        """Where the recovered float form of a recipe lies, shared by all recipes that differ from it in bits alone."""
        structural = Recipe.of((step for step in recipe.steps if step.technique != "bits"), recipe.recovery)
        if not structural.steps:
            return self.untouched_file()
        return self.out / "bases" / f"{structural.key}{self.runtime.suffix}"

    def stop(self, rung: str, values: Mapping[str, Value], recipe: Recipe, clock: "Clock") -> Rejected | None:
        """A Rejected if a limit is already broken by what is known."""
        found = Measurement(values, not_counted=self.prepared.structure.not_counted)
        broken = self.violations(found)
        return None if feasible(broken) else Rejected(rung, found, broken, recipe, clock.seconds)

    def violations(self, found: Measurement) -> dict[str, float]:
        return self.job.budget.violations(found, self.prepared.untouched, self.prepared.metric_direction)

    def binding(self) -> bool:
        """Whether the untouched model breaks a limit on latency, bytes or memory, so that an early look can save work."""
        broken = self.violations(self.prepared.untouched)
        return any(broken.get(name, 0) > 0 for name in ("ms", "mb", "memory_mb"))

    def measurement(self, values: Mapping[str, Value], score: Score) -> Measurement:
        return Measurement(values, others_of(score), {"samples": score.n}, self.prepared.structure.not_counted)

    # -- data -----------------------------------------------------------------------------------------------------------

    def learning_data(self) -> tuple[list[Lesson], list[Lesson], list[Inputs]]:
        """(batches to learn from, held-out batches, calibration inputs), all from the train split, read once.

        At most LESSONS + HELD samples stay in memory, however large the data is.
        """
        if self._learned is None:
            split = "train" if self.task.has("train") else "val"
            pieces: list[Lesson] = []
            seen = 0
            for inputs, targets in self.task.batches(split):
                for start in range(0, batch_size(inputs), LESSON_BATCH):
                    self.machine.pause()
                    part = rows(inputs, start, start + LESSON_BATCH)
                    with torch.no_grad():
                        outputs = call(self.model, part)
                    pieces.append(
                        Lesson(part, outputs, None if targets is None else rows(targets, start, start + LESSON_BATCH, batch_size(inputs)))
                    )
                    seen += batch_size(part)
                if seen >= LESSONS + HELD:
                    break
            cut = max(1, min(HELD // LESSON_BATCH, len(pieces) // 5))
            lessons = pieces[:-cut] or pieces
            calibration = [lesson.inputs for lesson in lessons[: max(1, CALIBRATION // LESSON_BATCH)]]
            self._learned = lessons, pieces[-cut:], calibration
        return self._learned

    @functools.cached_property
    def reference(self) -> Reference:
        """What the original gives, for recovery."""
        return Reference.of(self.model, self.learning_data()[0], self.machine.pause)

    def moments(self, calibration: list[Inputs]) -> Mapping[str, torch.Tensor]:
        if self._moments is None:
            self._moments = second_moments(self.model, calibration)
        return self._moments

    # -- measuring ------------------------------------------------------------------------------------------------------

    def untouched_file(self) -> Path:
        return self.out / f"{UNTOUCHED}{self.runtime.suffix}"

    def score(self, path: Path, untouched: Path, early: Candidate | None) -> Score:
        """Validation score of a file. With ``early``, stops after a part if the drop is then certain to break --max-drop."""
        session = self.runtime.open(path, self.job.work_threads)
        original = self.runtime.open(untouched, self.job.work_threads) if not self.has_targets else None

        def predict(inputs: Inputs) -> Any:
            self.machine.pause()
            return session.run(inputs)

        if early is not None and self.prepared is not None and self.job.budget.max_drop is not None:
            part = self.task.score(predict, "val", original.run if original else None, self.part())
            if self.hopeless(part):
                return part
        return self.task.score(predict, "val", original.run if original else None)

    def part(self) -> Iterator[tuple[Inputs, Any]]:
        """The first quarter of the validation batches, at least one."""
        wanted = max(1, self.prepared.untouched.facts["samples"] // 4)
        seen = 0
        for inputs, targets in self.task.batches("val"):
            yield inputs, targets
            seen += batch_size(inputs)
            if seen >= wanted:
                break

    def hopeless(self, part: Score) -> bool:
        """Whether a part of the data already shows, four standard errors beyond doubt, a drop above the allowed one."""
        if part.per_unit is None or len(part.per_unit) < 30 or part.n >= self.prepared.untouched.facts["samples"]:
            return False
        base, value = self.prepared.untouched.get("metric"), next(iter(part.values.values()))
        doubt = 4 * max(float(part.per_unit.std()), 0.05) / len(part.per_unit) ** 0.5
        return drop(value, base, self.prepared.metric_direction) - doubt > self.job.budget.max_drop.resolve(base)

    def metric_value(self, score: Score) -> Value:
        """The leading metric with a 95 % interval from the spread of its parts, where there are any."""
        value = next(iter(score.values.values()))
        if score.per_unit is None or len(score.per_unit) < 8:
            return Value(value)
        half = 1.96 * float(score.per_unit.std(ddof=1)) / len(score.per_unit) ** 0.5
        return Value(value, value - half, value + half)

    def time(self, path: Path, untouched: Path) -> dict[str, Value]:
        """Latency of a file, timed in turn with the untouched file, alone on this machine."""
        inputs = self.task.latency_input
        candidate = self.runtime.open(path, self.job.threads).bind(inputs)
        baseline = self.runtime.open(untouched, self.job.threads).bind(inputs)
        with self.machine.alone():
            found = timing.compare(candidate, baseline, seconds=self.job.timing_seconds)
        return latency_values(found, batch_size(inputs))


def latency_values(found: timing.Timing, batch: int) -> dict[str, Value]:
    """A Timing under the names of METRICS."""
    p50 = found.p50
    through = Value(1000 * batch / p50.value, 1000 * batch / p50.high, 1000 * batch / p50.low)
    return {"latency_ms": p50, "latency_ratio": found.ratio, "throughput": through}


def others_of(score: Score) -> dict[str, float]:
    return dict(list(score.values.items())[1:])


def payload_bytes(draft: Draft) -> int:
    """Bytes that the weights alone need in a file: a lower bound of its size. Integer layers store one byte a weight."""
    small = {full for layer, bits in draft.bits.items() if bits == 8 for full, _ in draft.parts(layer)}
    total = 0
    for name, parameter in draft.model.named_parameters():
        owner, _, kind = name.rpartition(".")
        norm = isinstance(draft.model.get_submodule(owner), torch.nn.modules.batchnorm._BatchNorm)
        total += 0 if norm else parameter.numel() * (1 if owner in small and kind == "weight" else parameter.element_size())
    return total


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def remove(folder: Path) -> None:
    """Delete a candidate's files; another process may have done so already."""
    for path in folder.glob("*"):
        path.unlink(missing_ok=True)
    if folder.is_dir():
        folder.rmdir()


class Clock:
    """Seconds per rung."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.monotonic() - start, 4)
