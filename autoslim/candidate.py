"""A point that was asked, and the three ways it can end. Each type holds exactly what that end has."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoslim.metrics import Measurement
from autoslim.recipe import Recipe

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A trial that runs: its number in the study, the strategy's point and the recipe it decodes to. ``whole``: the metric is measured on
    all validation data even if a limit on its drop will be broken, since the strategy may give the same point more recovery."""

    number: int
    point: Point
    recipe: Recipe
    label: str = ""
    whole: bool = False


@dataclass(frozen=True)
class Done:
    """Climbed every rung: compressed, shipped as a file, and measured on it. ``model_file`` is relative to the study."""

    measurement: Measurement
    violations: Mapping[str, float]
    model_file: str
    sha256: str
    recipe: Recipe
    seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """Stopped at ``rung`` because a limit was broken there; ``measurement`` holds what was known by then."""

    rung: str
    measurement: Measurement
    violations: Mapping[str, float]
    recipe: Recipe
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Ended by a fault of its own. ``reason`` is one of REASONS; ``detail`` is one line."""

    reason: str
    detail: str
    seconds: Mapping[str, float] = field(default_factory=dict)


#: export = the runtime refused the model; untreatable = a technique did; interrupted = the run ended before the candidate;
#: device = the command of --target did not answer as it should; metric = the metric of the file is no finite number
REASONS = ("crash", "timeout", "memory", "export", "untreatable", "error", "interrupted", "device", "metric")

Outcome = Done | Rejected | Failed
