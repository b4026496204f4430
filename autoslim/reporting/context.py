"""What tables and pages need of a study, from the record alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from autoslim import hindsight, outsiders, recommending, tables
from autoslim.budget import Budget, Drop, Limit
from autoslim.candidate import Done
from autoslim.errors import UserError
from autoslim.losses import Loss
from autoslim.metrics import Measurement, Value
from autoslim.reading import Reading
from autoslim.study import Entry, Study


def context_of(study: "Study | Reading | Material") -> dict[str, Any]:
    """What the tables need besides the entries. Raises UserError for a study that has not measured the untouched model yet."""
    model, spec, base = study.fact("model"), study.fact("spec"), study.fact("untouched")
    if model is None or spec is None or base is None:
        raise UserError(f"study {study.name}: nothing was measured yet; wait until the search has measured the untouched model")
    limits = {name: Limit(*value) for name, value in spec["budget"].items()}
    untouched = Measurement.from_dict(base)
    if untouched.get("peak_memory_bytes") is None:  # measured in verification where the search had no need of it
        verified = next(
            (row for row in study.fact("verified") or [] if row["latency_ratio"] and row["sha256"] == study.fact("untouched_sha256")), None
        )
        if verified is not None:
            untouched = replace(untouched, values={**untouched.values, "peak_memory_bytes": Value(verified["peak_memory_bytes"])})
    return {
        **model,
        "untouched": untouched,
        "spec": spec,
        "objectives": spec["objectives"],
        "loss": None if (law := study.fact(recommending.FACT)) is None else Loss(law["root"], law["line"], math.inf),
        "budget": Budget(limits, Drop(*spec["max_drop"]) if spec["max_drop"] else None),
    }


def judged_entries(study: Study | Reading, context: Mapping[str, Any]) -> list[Entry]:
    """The record's entries, judged by the budget that holds now, rivals named."""
    return judged(study.entries(), context)


def judged(entries: Sequence[Entry], context: Mapping[str, Any]) -> list[Entry]:
    return tables.labelled(tables.rejudged(entries, context))


def done_by_key(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The trial that was really evaluated, per key."""
    return {entry.key: entry for entry in reversed(entries) if isinstance(entry.outcome, Done) and entry.cached_from is None}


def front_rows(study: Study | Reading) -> list[dict[str, Any]]:
    """The rows of front.csv, from the record."""
    return list(Material(study).rows)


@dataclass(frozen=True)
class Material:
    """One study, read once: everything that reports are made of. Nothing is computed before it is asked for."""

    study: Study | Reading

    @property
    def name(self) -> str:
        return self.study.name

    def fact(self, name: str) -> Any:
        """A value of the record as it was when the study was read, or None."""
        return self._facts.get(name)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return self.study.facts()  # a copy of everything, so once

    @cached_property
    def context(self) -> dict[str, Any]:
        return context_of(self)

    @cached_property
    def entries(self) -> list[Entry]:
        return judged_entries(self.study, self.context)

    @cached_property
    def evaluations(self) -> int:
        """How many candidates were judged; repeats are none."""
        return self.study.evaluations() if isinstance(self.study, Reading) else tables.counts(self.entries)["evaluations"]

    @cached_property
    def by_key(self) -> dict[str, Entry]:
        return done_by_key(self.entries)

    @cached_property
    def points(self) -> dict[str, Entry]:
        """The trials behind the verified rows, per key. Of a journal no others are read for it: what a trial counts as is decided among the
        trials of its own recipe (repeats, remakes, labels), so the rest of the study changes nothing. Rivals outside of the search space are
        among them, unless a trial is of the same recipe."""
        rivals = {entry.key: entry for entry in outsiders.entries(self.fact(outsiders.FACT))}
        if not isinstance(self.study, Reading):
            return rivals | self.by_key
        return rivals | done_by_key(judged(self.study.entries({row["key"] for row in self.fact("verified") or []}), self.context))

    @cached_property
    def no_rivals(self) -> dict[str, str]:
        """{label: why} of the trivial rivals that could not be made."""
        return outsiders.lacking(self.fact(outsiders.FACT))

    @cached_property
    def verified(self) -> dict[str, Mapping[str, Any]]:
        """{key: what verification found}."""
        return {row["key"]: row for row in self.fact("verified") or [] if row["key"] in self.points}

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of front.csv."""
        return [tables.front_row(self.points[key], row, self.context) for key, row in self.verified.items()]

    @cached_property
    def offered(self) -> list[dict[str, Any]]:
        """The rows that may be recommended, picked and counted: all but rivals outside of the search space."""
        return recommending.offered(self.rows)

    @cached_property
    def trials(self) -> list[dict[str, Any]]:
        """The rows of trials.csv."""
        return [tables.trial_row(entry) for entry in self.entries]

    @cached_property
    def forecasts(self) -> dict[str, list[list[float]]]:
        """{quantity: [predicted, measured] of each point that was evaluated}."""
        return {name: hindsight.pairs(self.entries, name).tolist() for name in hindsight.MEASURED}

    @cached_property
    def chosen(self) -> Mapping[str, Any] | None:
        """The recommended row, else the one that breaks the limits least, else None."""
        return recommending.best(self.rows, self.context) or recommending.closest(self.rows, self.context)
