"""What a search tells its workers and what the first of them tells back; plain values, so that they cross processes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoslim.budget import Budget
from autoslim.metrics import Measurement
from autoslim.space import SearchSpace
from autoslim.structure import Structure

#: where the untouched model's file lies in the output folder, without its ending
UNTOUCHED = "models/untouched/model"


#: seconds of one round of timing, per file, in verification
ROUND_SECONDS = 0.4


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
    timing_seconds: float = 0.4
    part: str | None = None
    #: times are taken on another machine, which the worker's owner asks for them
    away: bool = False


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
