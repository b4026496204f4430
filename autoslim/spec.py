"""What a user wants, checked before anything is built: study YAML and flags -> one validated StudySpec."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autoslim import plugins, settings, yamlfile
from autoslim.budget import LIMITS, Budget, parse_drop, parse_limit
from autoslim.errors import UserError
from autoslim.host import physical_cores
from autoslim.metrics import OBJECTIVES
from autoslim.space import TIES

#: trials of a search that a time bounds
UNBOUNDED = 100_000
DEFAULT_TASK = "autoslim.tasks.digits.task"
SHORTCUT_TASK = "autoslim.tasks.shortcut"
FAMILIES = ("cnn", "rnn", "transformer")


def _whole(least: int) -> Any:
    def check(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | str)
            or not re.fullmatch(r"-?\d+", str(value).strip())
            or int(value) < least
        ):
            raise ValueError(f"an integer from {least}")
        return int(value)

    return BeforeValidator(check)


def _member(door: str) -> Any:
    def check(value: Any) -> str:
        if value not in plugins.names(door):
            raise ValueError(", ".join(plugins.names(door)))
        return value

    return BeforeValidator(check)


def _seconds(value: Any) -> float | None:
    """``90``, ``90s``, ``10m`` or ``2h`` in seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smh]?)\s*", str(value))
    if not match or float(match.group(1)) <= 0:
        raise ValueError("a duration such as 90s, 10m or 2h")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[match.group(2)]


def _limit(name: str) -> Any:
    def check(value: Any) -> Any:
        if value is None:
            return None
        try:
            return parse_limit(value, "", LIMITS[name][1])
        except UserError as error:
            raise ValueError(str(error).split("allowed: ")[1]) from None

    return BeforeValidator(check)


def _drop(value: Any) -> Any:
    if value is None:
        return None
    try:
        return parse_drop(value)
    except UserError as error:
        raise ValueError(str(error).split("allowed: ")[1]) from None


def _objectives(value: Any) -> tuple[str, ...]:
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if (
        not names
        or len(set(names)) != len(names)
        or any(name not in OBJECTIVES for name in names)
        or "metric" not in names
        or len(names) < 2
    ):
        raise ValueError(f"metric and at least one other of {', '.join(OBJECTIVES)}, each once")
    return tuple(names)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def _values(value: Any) -> Any:
    if value is not None and (not isinstance(value, list) or not value):
        raise ValueError("a list with at least one value, mildest first")
    return value


def _texts(value: Any) -> Any:
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise ValueError('a list of layer globs such as ["stages.*"]')
    return value


def _tie(value: Any) -> str:
    if value not in TIES:
        raise ValueError(", ".join(TIES))
    return value


class TechniqueSpec(_Model):
    """One technique of a search space."""

    values: Annotated[list | None, BeforeValidator(_values)] = None
    layers: Annotated[list[str], BeforeValidator(_texts)] = ["*"]
    tie: Annotated[str, BeforeValidator(_tie)] = "none"
    options: dict[str, Any] = {}


def _techniques(value: Any) -> Any:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"a mapping from technique to its settings; techniques: {', '.join(plugins.names('techniques'))}")
    return {name: {} if told is None else told for name, told in value.items()}


def _recovery(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"a mapping with keys of {', '.join(settings.DEFAULTS)}")
    for key, told in value.items():
        for one in told if isinstance(told, list) else [told]:
            try:
                settings.check({key: one}, "")
            except UserError as error:
                raise ValueError(str(error).removeprefix(": ")) from None
    return dict(value)


def _fixed(value: Any) -> Any:
    """Settings of recovery with one value each."""
    found = _recovery(value)
    if any(isinstance(told, list) for told in found.values()):
        raise ValueError("one value for each key; lists are for search spaces")
    return found


class SpaceSpec(_Model):
    """A search space file."""

    family: str = ""  # for people: which networks the space was written for
    techniques: Annotated[dict[Annotated[str, _member("techniques")], TechniqueSpec], BeforeValidator(_techniques)]
    freeze: Annotated[list[str], BeforeValidator(_texts)] = []
    ties: list[list[str]] = []
    recovery: Annotated[dict[str, Any], BeforeValidator(_recovery)] = {}


class BudgetSpec(_Model):
    """Limits; a number or a share of the untouched model such as "60%"."""

    ms: Annotated[Any, _limit("ms")] = None
    mb: Annotated[Any, _limit("mb")] = None
    macs: Annotated[Any, _limit("macs")] = None
    memory_mb: Annotated[Any, _limit("memory_mb")] = None
    max_drop: Annotated[Any, BeforeValidator(_drop)] = None


class StepSpec(_Model):
    """One step of a fixed pipeline (`autoslim steps`): a value per technique for the units that ``layers`` name, then recovery."""

    name: str = ""
    techniques: Annotated[dict[Annotated[str, _member("techniques")], Any], BeforeValidator(lambda value: value or {})] = {}
    layers: Annotated[list[str], BeforeValidator(_texts)] = ["*"]
    recovery: Annotated[dict[str, Any] | None, BeforeValidator(lambda value: None if value is None else _fixed(value))] = None


class StudySpec(_Model):
    """Everything a search needs to be told; the defaults are the embedded study."""

    name: str = ""
    task: str = DEFAULT_TASK
    task_args: dict[str, str] = {}
    part: str | None = None
    runtime: Annotated[str, _member("runtimes")] = "onnxruntime_cpu"
    threads: Annotated[int, _whole(0)] = 0
    space: str = "auto"
    budget: BudgetSpec = Field(default_factory=BudgetSpec)
    objectives: Annotated[tuple[str, ...], BeforeValidator(_objectives)] = ("metric", "latency_ms", "size_bytes")
    strategy: Annotated[str, _member("strategies")] = "frontier"
    strategy_options: dict[str, Any] = {}
    executor: Annotated[str, _member("executors")] = "local"
    executor_options: dict[str, Any] = {}
    trials: Annotated[int, _whole(1)] = 40
    time: Annotated[float | None, BeforeValidator(_seconds)] = None
    patience: Annotated[int, _whole(0)] = 30
    warm_start: str = ""
    grid: bool = True
    workers: Annotated[int, _whole(0)] = 0
    trial_timeout: Annotated[float | None, BeforeValidator(_seconds)] = None
    trial_memory_mb: Annotated[int, _whole(0)] = 0
    seed: Annotated[int, _whole(0)] = 0
    max_samples: Annotated[int | None, BeforeValidator(lambda v: None if v is None else _whole(1).func(v))] = None
    verify: Annotated[int, _whole(1)] = 12
    steps: list[StepSpec] = []

    @model_validator(mode="after")
    def time_alone_bounds(self) -> "StudySpec":
        """With a time and no number of trials, the time alone decides."""
        if self.time is not None and "trials" not in self.model_fields_set:
            self.trials = UNBOUNDED
        return self

    def limits(self) -> Budget:
        found = {name: getattr(self.budget, name) for name in LIMITS if getattr(self.budget, name) is not None}
        return Budget(found, self.budget.max_drop)

    def resolved_threads(self) -> int:
        return self.threads or physical_cores()

    def resolved_name(self) -> str:
        if self.name:
            return self.name
        if self.task == DEFAULT_TASK:
            return "digits"
        model = self.task_args.get("model", "")
        if model:  # hf:FOLDER and onnx:FILE hold paths: their last part is the name
            base = Path(model.partition(":")[2] or model).resolve().name.removesuffix(".onnx")
        else:
            base = Path(self.task).stem if self.task.endswith(".py") else self.task.rpartition(".")[2]
        return f"{base}-{self.part}" if self.part else base

    def space_content(self) -> dict[str, Any]:
        """The space file as plain data; "auto" carries one for each family, the model decides in the worker."""
        if self.space == "auto":
            return {"auto": {name: load_space(name).model_dump() for name in FAMILIES}}
        return load_space(self.space).model_dump()


def load_space(name: str) -> SpaceSpec:
    """A shipped space by name, or a file. Raises UserError with all mistakes."""
    path = yamlfile.find("search_spaces", name)
    data, lines = yamlfile.read(path)
    return yamlfile.check(SpaceSpec, data, str(path), lines)


def load_study(name: str | None, flags: Mapping[str, Any], preset: str | None = None) -> StudySpec:
    """A study file, a preset and flags, later ones first in rank. All mistakes of all of them come in one UserError."""
    problems: list[str] = []
    merged: dict[str, Any] = {}
    for kind in (preset, name):
        if not kind:
            continue
        try:
            path = yamlfile.find("studies", kind)
            data, lines = yamlfile.read(path)
            yamlfile.check(StudySpec, data, str(path), lines)
            merged = overlay(merged, data)
        except UserError as error:
            problems.append(str(error))
    cleaned = {key: value for key, value in flags.items() if value is not None}
    merged = overlay(merged, cleaned)
    if problems:
        raise UserError("\n".join(problems))
    spec = yamlfile.check(StudySpec, merged, "command line", {})
    if spec.space != "auto":
        load_space(spec.space)
    return spec


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged; ``above`` wins."""
    merged = dict(below)
    for key, value in above.items():
        merged[key] = overlay(merged[key], value) if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) else value
    return merged
