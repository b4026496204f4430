"""One candidate's way up the rungs, the cheapest first: predicted, timed, quick, full (see evaluator.py for what each costs)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from autoslim.budget import feasible
from autoslim.candidate import Candidate, Done, Outcome, Rejected
from autoslim.clock import Clock, remove, sha256
from autoslim.engine import Draft, compress
from autoslim.formats import stored_bits
from autoslim.inputs import Inputs
from autoslim.layers import count
from autoslim.metrics import Value
from autoslim.recipe import to_yaml
from autoslim.recovery import recover
from autoslim.task import Score

if TYPE_CHECKING:
    from autoslim.evaluator import Evaluator


class Climb:
    """A candidate under way; ``up`` is the whole of it."""

    def __init__(self, evaluator: "Evaluator", candidate: Candidate, clock: Clock) -> None:
        self.ev, self.candidate, self.clock = evaluator, candidate, clock
        self.recipe, self.early = candidate.recipe, not candidate.label
        self.folder = evaluator.out / "candidates" / self.recipe.key
        self.path = self.folder / f"model{evaluator.runtime.suffix}"
        self.values: dict[str, Value] = {}

    def up(self) -> Outcome:
        """The candidate's end. Labelled candidates (rivals, the corner) are not rejected early: they are measured whole."""
        lessons, held, calibration = self.ev.materials.lessons()
        draft = self.compressed(calibration)
        if self.early and (end := self.predicted(draft) or self.timed(draft, calibration)):
            return end
        notes = self.shipped(draft, lessons, held, calibration)
        with self.clock("score"):
            score = self.ev.score(self.path, self.ev.untouched_file(), self.candidate if self.early and not self.candidate.whole else None)
            gap = self.ev.gap(self.path)
        self.values["size_bytes"] = Value(self.path.stat().st_size)
        self.values["metric"] = self.ev.metric_value(score)
        if score.n < self.ev.prepared.untouched.facts["samples"]:
            return self.hopeless(score)
        self.measure()
        found = self.ev.measurement(self.values, score, gap)
        (self.folder / "recipe.yaml").write_text(
            to_yaml(self.recipe, {"key": self.recipe.key, "task": self.ev.task.name}), encoding="utf-8"
        )
        place, digest = str(self.path.relative_to(self.ev.out)), sha256(self.path)
        return Done(found, self.ev.violations(found), place, digest, self.recipe, self.clock.seconds, tuple(notes))

    def compressed(self, calibration: Sequence[Inputs]) -> Draft:
        """The candidate's draft; its parameters and multiply-accumulates are known from here on."""
        ev = self.ev
        with self.clock("compress"):
            draft = compress(
                ev.model,
                self.recipe,
                calibration,
                structure=ev.prepared.structure,
                moments=ev.materials.moments(calibration),
                students=ev.task.students(ev.model),
            )
            params, macs = count(draft.model, ev.example)
        self.values = {"params": Value(params), "macs": Value(macs)}
        return draft

    def predicted(self, draft: Draft) -> Rejected | None:
        """What is known before any file exists: MACs, and a lower bound of the bytes."""
        return self.broken("predicted", {**self.values, "size_bytes": Value(payload_bytes(draft))})

    def timed(self, draft: Draft, calibration: Sequence[Inputs]) -> Rejected | None:
        """Bytes, latency and memory of the file before recovery, which changes none of them; only where such a limit binds."""
        if not self.ev.binding():
            return None
        with self.clock("export"):
            base = self.path.with_name(f"early{self.ev.runtime.suffix}")
            self.ev.export(draft, calibration, base)
            self.ev.runtime.finish(draft, base, calibration, self.path)
            base.unlink()
        self.measure()
        end = self.broken("timed", {**self.values, "size_bytes": Value(self.path.stat().st_size)})
        if end is not None:
            remove(self.folder)
        return end

    def shipped(self, draft: Draft, lessons: Sequence, held: Sequence, calibration: Sequence[Inputs]) -> list[str]:
        """Recover the draft and write its file; returns what there is to note. Recipes that differ in bits alone share the
        recovered float form."""
        ev, base = self.ev, self.ev.base(self.recipe)
        notes: list[str] = []
        if not base.is_file():
            draft.initial = ev.task.initial
            with self.clock("pool"):
                pool = ev.materials.pool(self.recipe.recovery)
            with self.clock("recover"):
                notes = recover(
                    draft,
                    ev.model,
                    lessons,
                    held,
                    self.recipe.recovery,
                    loss=ev.task.loss() if ev.has_targets else None,
                    known=ev.materials.reference,
                    pause=ev.machine.pause,
                    seed=ev.job.seed,
                    pool=pool,
                    trunk=ev.trunk(self.recipe),
                )
        with self.clock("export"):
            if not base.is_file():
                notes += ev.export(draft, calibration, base)
            notes += draft.notes + list(ev.runtime.finish(draft, base, calibration, self.path))
        return notes

    def hopeless(self, score: Score) -> Rejected:
        """The end of a candidate whose drop on a part of the data is already beyond doubt too large; metric and drop are those of that part."""
        remove(self.folder)
        found = self.ev.measurement(self.values, score)
        whole = self.ev.prepared.untouched
        alike = replace(whole, values={**whole.values, "metric": Value(next(iter(self.ev.part_base.values.values())))})
        return Rejected("quick", found, self.ev.violations(found, alike), self.recipe, self.clock.seconds)

    def measure(self) -> None:
        """Latency; memory and energy where they are asked for."""
        with self.clock("time"):
            self.values |= self.ev.measured(self.path, self.ev.untouched_file())

    def broken(self, rung: str, values: Mapping[str, Value]) -> Rejected | None:
        """A Rejected if a limit is already broken by what is known."""
        found = self.ev.measurement(values)
        violations = self.ev.violations(found)
        return None if feasible(violations) else Rejected(rung, found, violations, self.recipe, self.clock.seconds)


def payload_bytes(draft: Draft) -> int:
    """Bytes that the weights alone need in a file: a lower bound of its size, with narrow weights at the width they are stored with."""
    bits = {full: stored_bits(value) for layer, value in draft.bits.items() for full, _ in (*draft.parts(layer), (layer, None))}
    total = 0
    for name, parameter in draft.model.named_parameters():
        owner, _, kind = name.rpartition(".")
        norm = isinstance(draft.model.get_submodule(owner), torch.nn.modules.batchnorm._BatchNorm)
        narrow = bits.get(owner) if kind.startswith("weight") else None
        total += 0 if norm else parameter.numel() * narrow // 8 if narrow else parameter.numel() * parameter.element_size()
    return total
