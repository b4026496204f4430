"""What a user wants, checked before anything is built: study YAML and flags -> one validated StudySpec."""

import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autoslim import choices, plugins, settings, yamlfile
from autoslim.budget import LIMITS, Budget, parse_drop, parse_limit
from autoslim.errors import UserError
from autoslim.host import own_cores
from autoslim.metrics import OBJECTIVES
from autoslim.space import TIES

#: what the search itself tells strategies and executors
GIVEN = {
    "strategy": {"space", "objectives", "constraints", "seed", "tables"},
    "executor": {"job", "workers", "trial_timeout", "trial_memory_mb"},
}
#: trials of a search that a time bounds
UNBOUNDED = 100_000
DEFAULT_TASK = "autoslim.tasks.digits.task"
SHORTCUT_TASK = "autoslim.tasks.shortcut"
FAMILIES = ("cnn", "rnn", "transformer")
#: the shipped studies that --preset takes
PRESETS = ("edge", "mobile", "server")


def _whole(least: int, most: float = float("inf")) -> Any:
    def check(value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float | str)
            or not re.fullmatch(r"-?\d{1,18}", str(value).strip())
            or not least <= int(value) <= most
        ):
            raise ValueError(f"an integer from {least}" + (f" to {most}" if most < float("inf") else ""))
        return int(value)

    return BeforeValidator(check)


def _member(door: str) -> Any:
    def check(value: Any) -> str:
        if value not in plugins.names(door):
            raise ValueError(", ".join(plugins.names(door)))
        return value

    return BeforeValidator(check)


def _runtime(value: Any) -> str:
    """A member of runtimes/, or ``cmd:COMMAND`` with {file} in it."""
    name, _, argument = str(value).partition(":")
    if name not in plugins.names("runtimes") or (name == "cmd") != ("{file}" in argument) or (argument and name != "cmd"):
        raise ValueError(
            ", ".join(one for one in plugins.names("runtimes") if one != "cmd") + ", or 'cmd:COMMAND' with {file} in the command"
        )
    return value


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
            return parse_limit(value, "", LIMITS[name][1], name == "macs")
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
    lists = list(value.values()) if isinstance(value, Mapping) and value else [value]
    if value is not None and not all(isinstance(one, list) and one for one in lists):
        raise ValueError("a list with at least one value, mildest first, or a mapping from the keys of a value to such lists")
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

    values: Annotated[list | dict[str, list] | None, BeforeValidator(_values)] = None
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
    wrong = []
    for key, told in value.items():
        for one in told if isinstance(told, list) else [told]:
            try:
                settings.check({key: one}, "")
            except UserError as error:
                wrong.append(str(error).removeprefix(": "))
    if wrong:
        raise ValueError("; ".join(wrong))
    return dict(value)


def _families(value: Any) -> tuple[str, ...]:
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
    if any(name not in plugins.names("techniques") for name in names) or len(set(names)) != len(names):
        raise ValueError(f"names, each once, of {', '.join(plugins.names('techniques'))}")
    return tuple(names)


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
    runtime: Annotated[str, BeforeValidator(_runtime)] = "onnxruntime_cpu"
    threads: Annotated[int, _whole(0)] = 0
    space: str = "auto"
    families: Annotated[tuple[str, ...], BeforeValidator(_families)] = ()
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
    seed: Annotated[int, _whole(0, 2**32 - 1)] = 0
    max_samples: Annotated[int | None, BeforeValidator(lambda v: None if v is None else _whole(1).func(v))] = None
    verify: Annotated[int, _whole(1)] = 16
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
        """Threads that are timed: as told, or those of ``host.own_cores``."""
        return self.threads or own_cores()

    def resolved_name(self) -> str:
        """The study's name: as given, else after its task or model."""
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
            return {"auto": {name: restricted(load_space(name), self.families) for name in FAMILIES}}
        return restricted(load_space(self.space), self.families)

    def space_places(self) -> dict[str, str]:
        """{path of keys such as "freeze.0": "FILE:LINE"} of the space's file, for what only the network shows; empty for "auto"."""
        if self.space == "auto":
            return {}
        path = yamlfile.find("search_spaces", self.space)
        return {".".join(map(str, where)): f"{path}:{line}" for where, line in yamlfile.read(path)[1].items() if where}


def load_space(name: str) -> SpaceSpec:
    """A shipped space by name, or a file. Raises UserError with all mistakes, values that a technique does not take included."""
    path = yamlfile.find("search_spaces", name)
    data, lines = yamlfile.read(path)
    if path in yamlfile.shipped("search_spaces").values():
        return yamlfile.check(SpaceSpec, data, str(path), lines)
    problems: list[str] = []
    space = heard(problems, yamlfile.check, SpaceSpec, data, str(path), lines)
    problems += choices.mistakes(data, str(path), lines)
    if problems:
        raise UserError("\n".join(problems))
    return space


def heard(problems: list[str], function: Callable[..., Any], *args: Any) -> Any:
    """What ``function`` returns; None where it raises UserError, whose lines go to ``problems``."""
    try:
        return function(*args)
    except UserError as error:
        problems.append(str(error))
        return None


def restricted(space: SpaceSpec, families: Sequence[str]) -> dict[str, Any]:
    """A space as plain data, of ``families`` alone where there are any. A technique that the space lacks is searched as the shipped space
    of its name has it, with that space's recovery, and without one with the values that it declares itself."""
    data = space.model_dump()
    if not families:
        return data
    data["techniques"] = {name: data["techniques"].get(name) or TechniqueSpec().model_dump() for name in families}
    for name in families:
        if name not in space.techniques and name in yamlfile.shipped("search_spaces"):
            own = load_space(name)
            data["techniques"][name] = own.techniques[name].model_dump()
            data["recovery"] = {**data["recovery"], **own.recovery}
    return data


def load_study(name: str | None, flags: Mapping[str, Any], preset: str | None = None) -> StudySpec:
    """A study file, a preset and flags, later ones first in rank. All mistakes of all of them come in one UserError."""
    problems: list[str] = []
    merged: dict[str, Any] = {}
    if preset and preset not in PRESETS:
        problems.append(f"--preset: got {preset!r}, allowed: {', '.join(PRESETS)}")
    for kind in (preset if preset in PRESETS else None, name):
        merged = overlay(merged, (heard(problems, read_study, kind) if kind else None) or {})
    if name and not problems and flags.get("task") is None:
        problems += lost_task(name)
    merged = overlay(merged, {key: value for key, value in flags.items() if value is not None})
    spec = heard(problems, yamlfile.check, StudySpec, merged, "command line", {})
    space = flags.get("space") or "auto"
    if isinstance(space, str) and space != "auto":
        heard(problems, load_space, space)
    if problems:
        raise UserError("\n".join(problems))
    return spec


def read_study(name: str) -> Mapping[str, Any]:
    """The content of a study file, checked with the space that it names. Raises UserError with all mistakes."""
    path = yamlfile.find("studies", name)
    data, lines = yamlfile.read(path)
    problems: list[str] = []
    heard(problems, yamlfile.check, StudySpec, data, str(path), lines)
    problems += unknown_options(data, str(path), lines)
    space = data.get("space", "auto") if isinstance(data, Mapping) else "auto"
    if isinstance(space, str) and space != "auto":
        found: list[str] = []
        heard(found, load_space, space)
        problems += [f"{path}:{lines.get(('space',), 1)}: {line}" for line in "\n".join(found).splitlines()]
    if problems:
        raise UserError("\n".join(problems))
    return data


def lost_task(name: str) -> list[str]:
    """A line for a study file's task that is not there; nothing of the task is loaded."""
    path = yamlfile.find("studies", name)
    data, lines = yamlfile.read(path)
    task = data.get("task", DEFAULT_TASK)
    if task.endswith(".py") or "/" in task:
        there = Path(task).is_file()
    else:
        installed, package = importlib.metadata.entry_points(group="autoslim.tasks"), task.partition(".")[0]
        there = task in installed.names or bool(package) and importlib.util.find_spec(package) is not None
    allowed = "a .py file (its path is seen from the working folder), an importable module, or an installed task"
    return [] if there else [f"{path}:{lines.get(('task',), 1)}: task is {task!r}, allowed: {allowed}"]


def unknown_options(data: Any, source: str, lines: Mapping[tuple, int]) -> list[str]:
    """A line for each option that a study's strategy or executor does not take."""
    found = []
    for key, door in (("strategy", "strategies"), ("executor", "executors")):
        name = data.get(key, StudySpec.model_fields[key].default) if isinstance(data, Mapping) else None
        told = data.get(f"{key}_options") if name in plugins.names(door) else None
        if not isinstance(told, Mapping):
            continue
        taken = inspect.signature(plugins.find(door, name)).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in taken):
            continue
        allowed = sorted({one.name for one in taken} - GIVEN[key])
        found += [
            f"{source}:{lines.get((f'{key}_options', option), 1)}: {key}_options: {name} takes no {option!r}, "
            f"allowed: {', '.join(allowed) or 'none'}"
            for option in told
            if option not in allowed
        ]
    return found


def overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings merged; ``above`` wins."""
    merged = dict(below)
    for key, value in above.items():
        merged[key] = overlay(merged[key], value) if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) else value
    return merged
