"""Recipe -> Done, Rejected or Failed, in rungs, the cheapest first. One evaluator lives in each worker process.

Rungs: "predicted" (the compressed structure: MACs, and the bytes that the weights alone need), "timed" (exported before any recovery,
bytes and latency of the file; only where such a limit binds), "quick" (part of the validation data), "full" (recovered,
exported, all of the validation data, timed). A rejected candidate has paid for the rungs it climbed and no more.
"""

import functools
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from autoslim import coverage, drills, fitting, host, ladder, offers, plugins, sensitivity, settings, statistics, threads, trivial
from autoslim.budget import LIMITS, drop
from autoslim.candidate import Candidate, Failed, Outcome
from autoslim.clock import Clock, sha256
from autoslim.continuing import Trunk
from autoslim.device import contest_of
from autoslim.engine import Draft
from autoslim.errors import AutoSlimError, DeviceFailed, ExportFailed, TaskFailed, Untreatable, UserError
from autoslim.inputs import Inputs, batch_size
from autoslim.job import IDENTITY, UNTOUCHED, Job, Prepared
from autoslim.layers import count
from autoslim.machine import Machine
from autoslim.materials import Materials
from autoslim.memory import trim
from autoslim.meters import Meters
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe, to_yaml
from autoslim.rungs import Climb
from autoslim.structure import Structure
from autoslim.task import AGREEMENT, Score, Task, finite


class Evaluator:
    """Holds the task, the model and the untouched file open; evaluates one candidate after the other."""

    def __init__(self, job: Job, task: Task) -> None:
        threads.limit(job.work_threads)
        self.job, self.task = job, task
        self.out = Path(job.out)
        self.machine = Machine()
        self.runtime = plugins.load("runtimes", job.runtime)
        self.model = task.model()
        self.example = task.example_input()
        self.materials = Materials(task, self.model, self.machine.pause)
        self.prepared: Prepared | None = None
        self.meters = Meters(job, self.runtime)

    # -- preparation ----------------------------------------------------------------------------------------------------

    def prepare(self) -> Prepared:
        """Look at the model, ship it untouched, measure that file, and build the search space."""
        clock = Clock()
        self.meters.refuse()
        self.refuse_unlike()
        with self.machine.working():
            self.refuse_broken_data()
            with clock("analysis"):
                self.task.refuse_unfit(self.model, self.example)
                structure = coverage.analyse(self.model, self.example)
                spec = self.space_spec(structure)
                unfit = [*self.unknown_students(spec), *self.missing_initial(spec)]
                fast = self.runtime.accelerates if self.time_alone else None
                space, notes = offers.build(spec, structure, self.runtime.supports, self.job.places, unfit, fast)
                rivals = trivial.outside(space, spec, structure, self.runtime.supports)
                techniques = offers.members(spec)
            with clock("baseline"):
                path = self.out / f"{UNTOUCHED}{self.runtime.suffix}"
                draft = Draft(self.model, structure, self.example)
                try:
                    extra = self.export(draft, [], path)
                except ExportFailed as error:
                    raise UserError(
                        f"task {self.task.name}: no file for {self.job.runtime} can be made of the untouched network "
                        f"({' '.join(str(error).split())[:300]}); `autoslim profile` says what could be done to it, another --runtime may take it"
                    ) from None
                (path.parent / "recipe.yaml").write_text(to_yaml(Recipe()), encoding="utf-8")
                targets = self.has_targets
                params, macs = count(self.model, self.example)
                direction = "max" if not targets else next(iter(self.task.metrics.values()))
                score = self.first_score(path)
                measured = self.first_times(path)
            values = {
                "metric": self.metric_value(score),
                **measured,
                "size_bytes": Value(path.stat().st_size),
                "macs": Value(macs),
                "params": Value(params),
            }
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
            (*self.task.notes, *notes, *extra),
            clock.seconds,
            self.identity(),
            self.task.licence,
            *rivals,
        )
        self.note_identity()
        return self.prepared

    def unknown_students(self, spec: Mapping[str, Any]) -> Iterator[str]:
        """A line for each builder of the space that the task does not have."""
        known = self.task.students(self.model)
        told = spec["techniques"].get("student", {}).get("values") or ()
        for i, value in enumerate(() if isinstance(told, Mapping) else told):
            if isinstance(value, Mapping) and "builder" in value and value["builder"] not in known:
                allowed = ", ".join(known) or "none; the task defines no students()"
                yield fitting.line(self.job.places, ("techniques", "student", "values", i), dict(value), f"allowed builders: {allowed}")

    def missing_initial(self, spec: Mapping[str, Any]) -> Iterator[str]:
        """A line where the space has a recovery from initial weights that the task does not give."""
        told = spec.get("recovery", {}).get("rewind", "")
        if settings.INITIAL in (told if isinstance(told, list) else [told]):
            try:
                self.task.initial()
            except TaskFailed:
                raise
            except UserError as error:
                yield fitting.line(self.job.places, ("recovery", "rewind"), told, f"but {error}")

    def refuse_broken_data(self) -> None:
        """Raise UserError if the first batch of a split cannot be drawn; of ``test`` that would else be found after the search."""
        try:
            next(iter(self.task.batches("val")))
        except (AutoSlimError, MemoryError):
            raise
        except Exception as error:
            raise self.task.fault("data('val')", error) from error
        for split in ("train", "test"):
            self.task.has(split)

    def refuse_unlike(self) -> None:
        """Raise UserError if the folder holds the untouched file of something else, before that file is written again."""
        note = self.out / IDENTITY
        mine = self.identity()
        if note.is_file():
            known = json.loads(note.read_text(encoding="utf-8"))
            if known != mine:
                other = ", ".join(name for name in mine if mine[name] != known.get(name))
                raise UserError(
                    f"{self.out}: the study here was begun with another {other}; results of unlike things do not mix, give another --out"
                )
        note.parent.mkdir(parents=True, exist_ok=True)

    def note_identity(self) -> None:
        """Write down whose untouched file the folder holds, once it is prepared: what was refused before may be mended and begun again there."""
        (self.out / IDENTITY).write_text(json.dumps(self.identity(), sort_keys=True) + "\n", encoding="utf-8")

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

    @property
    def time_alone(self) -> bool:
        """Whether time is the one cost that the study asks about, by its objectives and limits."""
        asked = {name for name in self.job.objectives if name != "metric"} | {LIMITS[name][0] for name in self.job.budget.limits}
        return bool(asked) and asked <= {"latency_ms", "throughput"}

    @functools.cached_property
    def has_targets(self) -> bool:
        return self.task.has_targets()

    def first_times(self, path: Path) -> dict[str, Value]:
        """The untouched file's. Raises UserError where its device does not answer, since no candidate's would."""
        try:
            return self.measured(path, path)
        except DeviceFailed as error:
            raise UserError(f"--target: {error}") from None

    # -- tables ---------------------------------------------------------------------------------------------------------

    def base_tables(self) -> dict[str, Any]:
        """What the layers of the untouched model and of narrower ones cost: see ladder.times; and whole files of random points, see drills.timed."""
        layers = self.prepared.structure.layers
        with self.machine.working():
            found = ladder.times(self)
            drilled = drills.timed(self)
        macs, params = ({name: float(getattr(layer, kind)) for name, layer in layers.items()} for kind in ("macs", "params"))
        return {"macs": macs, "params": params, "times": found, "drills": drilled}

    def effect(self, domain: str, choice: int, loss: bool) -> dict[str, Any]:
        """What one choice does: see sensitivity.measure."""
        return sensitivity.measure(self, domain, choice, loss)

    # -- one candidate --------------------------------------------------------------------------------------------------

    def evaluate(self, candidate: Candidate) -> Outcome:
        """The candidate's end. Never raises for what a recipe or a runtime can do wrong."""
        clock = Clock()
        try:
            with self.machine.working():
                return Climb(self, candidate, clock).up()
        except Untreatable as error:
            return Failed("export" if isinstance(error, ExportFailed) else "untreatable", str(error), clock.seconds)
        except DeviceFailed as error:
            return Failed(error.reason, str(error), clock.seconds)
        except TaskFailed as error:
            return Failed(error.reason, " ".join(str(error).split())[:300], clock.seconds)
        except UserError:
            raise
        except MemoryError:
            return Failed("memory", "the process ran out of memory", clock.seconds)
        except Exception as error:  # a stranger's model: whatever it raises is this candidate's end, with its reason
            return Failed("error", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", clock.seconds)
        finally:
            trim()

    def export(self, draft: Draft, calibration: list[Inputs], path: Path) -> list[str]:
        """Write a draft's float form; returns notes. The untouched file, once there, may serve as a template."""
        shapes = {} if self.task.dynamic_shapes is None else {"dynamic_shapes": self.task.dynamic_shapes}
        known = self.untouched_file()
        if self.prepared is not None and known.is_file():
            shapes["original"] = known, self.model
        return list(self.runtime.export(replace(draft, bits={}), self.example, calibration, path, **shapes))

    def base(self, recipe: Recipe) -> Path:
        """Where the recovered float form of a recipe lies, shared by all recipes that differ from it in bits alone."""
        structural = Recipe.of((step for step in recipe.steps if step.technique != "bits"), recipe.recovery)
        if not structural.steps:
            return self.untouched_file()
        return self.out / "bases" / f"{structural.key}{self.runtime.suffix}"

    def trunk(self, recipe: Recipe) -> Trunk:
        """Where distillations of a recipe of any length, and with any bits, have left their common beginning."""
        recovery = {name: value for name, value in recipe.recovery.items() if name != "distill_steps"}
        own = Recipe.of((step for step in recipe.steps if step.technique != "bits"), recovery)
        return Trunk(self.out / "bases" / own.key)

    def violations(self, found: Measurement, untouched: Measurement | None = None) -> dict[str, float]:
        """Of all limits; the drop against ``untouched``, by default as it was measured on all of the validation data."""
        return self.job.budget.violations(found, untouched or self.prepared.untouched, self.prepared.metric_direction)

    def binding(self) -> bool:
        """Whether the untouched model breaks a limit on latency, bytes or memory, so that an early look can save work."""
        broken = self.violations(self.prepared.untouched)
        return any(broken.get(name, 0) > 0 for name in ("ms", "mb", "memory_mb"))

    def gap(self, path: Path) -> float:
        """How far a file's outputs are from the original's on held-out inputs of the train split: finer than any metric."""
        return sensitivity.gap_of_file(self, path, self.materials.lessons()[1])

    def measurement(self, values: Mapping[str, Value], score: Score | None = None, gap: float | None = None) -> Measurement:
        """What was measured so far; ``gap``, where it is finite, in nats or relative as numbers.md says."""
        others, facts = (others_of(score), {"samples": score.n}) if score else ({}, {})
        facts |= {} if gap is None or not math.isfinite(gap) else {"gap": gap}
        return Measurement(values, others, facts, self.prepared.structure.not_counted)

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

    def first_score(self, path: Path) -> Score:
        """Validation score of the untouched file. Raises UserError where a batch does not fit it."""
        try:
            return self.score(path, path, None)
        except (AutoSlimError, MemoryError):
            raise
        except Exception as error:
            raise UserError(
                f"task {self.task.name}: the untouched file does not run on all batches of data('val') ({' '.join(str(error).split())[:300]}); "
                "expected the shapes and kinds of example_input(), but for the batch and the axes in DYNAMIC_SHAPES"
            ) from error

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
        """Whether a part of the data already shows, four standard errors beyond doubt, a drop above the allowed one: against the untouched
        file on that part, since what comes first need not be like the rest."""
        if part.per_unit is None or len(part.per_unit) < 30 or part.n >= self.prepared.untouched.facts["samples"]:
            return False
        base = self.part_base
        if base.per_unit is None:
            return False
        variance = max(float(part.per_unit.var() / len(part.per_unit) + base.per_unit.var() / len(base.per_unit)), 0.0025 / part.n)
        lost = drop(next(iter(part.values.values())), next(iter(base.values.values())), self.prepared.metric_direction)
        return lost - 4 * variance**0.5 > self.job.budget.max_drop.resolve(next(iter(base.values.values())))

    @functools.cached_property
    def part_base(self) -> Score:
        """The untouched file's score on :meth:`part`."""
        session = self.runtime.open(self.untouched_file(), self.job.work_threads)
        return self.task.score(session.run, "val", None if self.has_targets else session.run, self.part())

    def metric_value(self, score: Score) -> Value:
        """The leading metric with a 95 % interval from the spread of its parts, where there are any. Raises TaskFailed for a metric that is
        no finite number."""
        value = finite(self.task, score, "val")
        if score.per_unit is None or len(score.per_unit) < 8:
            return Value(value)
        known = statistics.quick_interval(score.per_unit)
        return Value(value, min(value, known.low), max(value, known.high))

    def time(self, path: Path, untouched: Path) -> dict[str, Value]:
        """Latency of a file, timed in turn with the untouched file, alone on this machine; energy where it is asked for."""
        contest = contest_of(self.runtime, self.job.threads, self.latency_inputs)
        with self.machine.alone():
            found = contest.values(contest.round(path, untouched, self.job.timing_seconds))
            return found | self.meters.energy_of(path, self.task.latency_input)

    def measured(self, path: Path, untouched: Path) -> dict[str, Value]:
        """Times of a file, and memory and energy where they are asked for."""
        found = self.time(path, untouched)
        return self.meters.asked(found | (self.meters.memory_of(path) if self.meters.memory else {}))

    @functools.cached_property
    def latency_inputs(self) -> list[tuple[Inputs, float]]:
        return self.task.latency_inputs()


def others_of(score: Score) -> dict[str, float]:
    """The metrics behind the leading one; one that is no finite number is unknown."""
    return {name: value for name, value in list(score.values.items())[1:] if math.isfinite(value)}
