"""What a search tells its workers and what the first of them tells back; plain values, so that they cross processes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoslim.budget import Budget
from autoslim.metrics import Measurement
from autoslim.recipe import Recipe
from autoslim.space import SearchSpace
from autoslim.structure import Structure

#: where the untouched model's file lies in the output folder, without its ending; and what the study there is of
UNTOUCHED = "models/untouched/model"
IDENTITY = "models/untouched/identity.json"

#: seconds of one round of timing, per file, in verification
ROUND_SECONDS = 0.3


@dataclass(frozen=True)
class Job:
    """Everything an evaluator is told; plain data, so that it crosses processes."""

    task: str
    task_args: Mapping[str, str]
    runtime: str
    threads: int
    out: str
    budget: Budget
    objectives: tuple[str, ...]
    space: Mapping[str, Any]
    seed: int = 0
    max_samples: int | None = None
    work_threads: int = 1
    timing_seconds: float = 0.3
    part: str | None = None
    #: seconds of the whole run, None for as long as it takes
    seconds: float | None = None
    #: times are taken on another machine, which the worker's owner asks for them
    away: bool = False
    #: where the values of the space's file stand; see StudySpec.space_places
    places: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What the first worker found out about the model; the others take it over."""

    structure: Structure
    space: SearchSpace
    coverage: Mapping[str, Any]
    untouched: Measurement
    untouched_sha256: str
    metric_name: str
    metric_direction: str
    has_targets: bool
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    identity: Mapping[str, Any]
    licence: str = ""
    #: trivial rivals that are no points of the space, by label; and why there is no such rival
    rivals: Mapping[str, Recipe] = field(default_factory=dict)
    no_rivals: Mapping[str, str] = field(default_factory=dict)


def timed_threads(out: Path) -> int:
    """The threads that the study in an output folder is timed with; 0 where no study is."""
    try:
        return int(json.loads((out / IDENTITY).read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError):
        return 0
