"""A user's task: model, example input, data splits and metric, behind one object that checks what it is given."""

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.inputs import Inputs, batch_size, call, rows, tensors
from autoslim.metrics import Direction

REQUIRED = ("model", "example_input", "data")
REQUIRED_OF_PARTS = ("parts", "data")
OPTIONAL = (
    "metric",
    "METRIC_NAME",
    "evaluate",
    "METRICS",
    "loss",
    "students",
    "parts",
    "DYNAMIC_SHAPES",
    "latency_inputs",
    "LICENCE",
    "CLASSES",
)
FILLED = {"split", "outputs", "targets", "inputs", "predict", "batches", "teacher"}  # given by AutoSlim, not by --task-arg
SPLITS = ("train", "val", "test")
AGREEMENT = "agreement with the original"
Predict = Callable[[Inputs], Any]


@dataclass(frozen=True)
class Score:
    """Metrics of one pass over a split. ``per_unit`` are the leading metric's parts, one per sample or per batch, whose
    mean it is; None where the task gives only a corpus figure. ``n`` counts samples."""

    values: Mapping[str, float]
    per_unit: np.ndarray | None
    n: int


class Task:
    """The task contract of docs/task.md around a user's module. Nothing of the data is held in memory."""

    #: whether a corpus metric may be resampled by looking outputs up by their inputs
    resamples = True

    def __init__(self, source: Any, name: str, args: Mapping[str, str] | None = None, max_samples: int | None = None) -> None:
        self._source, self.name, self._args = source, name, dict(args or {})
        self.max_samples = max_samples
        self._counts: dict[str, int] = {}
        self._handed: dict[str, Any] = {}
        self._check()

    def _check(self) -> None:
        required = REQUIRED_OF_PARTS if hasattr(self._source, "parts") else REQUIRED
        missing = [part for part in required if not callable(getattr(self._source, part, None))]
        if missing:
            raise UserError(f"task {self.name}: {missing[0]}() is missing; a task defines {', '.join(f'{p}()' for p in required)}")
        taken = {
            arg
            for part in (*REQUIRED, *OPTIONAL)
            if callable(f := getattr(self._source, part, None))
            for arg in inspect.signature(f).parameters
        } - FILLED
        unknown = sorted(set(self._args) - taken)
        if unknown:
            raise UserError(
                f"task {self.name}: no function takes the argument {unknown[0]!r} of --task-arg, allowed: {', '.join(sorted(taken)) or 'none'}"
            )

    def _call(self, part: str, *args: Any, **optional: Any) -> Any:
        """Call one of the task's functions with those of ``optional`` and of the task's arguments that it takes."""
        function = getattr(self._source, part)
        taken = inspect.signature(function).parameters
        return function(
            *args,
            **{key: value for key, value in optional.items() if key in taken},
            **{key: value for key, value in self._args.items() if key in taken},
        )

    def model(self) -> nn.Module:
        """The trained network, in eval mode."""
        model = self._call("model")
        if not isinstance(model, nn.Module):
            raise UserError(f"task {self.name}: model() returned a {type(model).__name__}, expected a torch.nn.Module")
        return model.eval()

    def example_input(self) -> Inputs:
        example = self._call("example_input")
        if not tensors(example):
            raise UserError(
                f"task {self.name}: example_input() returned {type(example).__name__} without a tensor, expected a tensor, tuple or dict"
            )
        return example

    def latency_inputs(self) -> list[tuple[Inputs, float]]:
        """What is timed, with weights that sum to 1: the task's latency_inputs(), else example_input(). Raises UserError for
        weights that are not positive numbers."""
        if not hasattr(self._source, "latency_inputs"):
            return [(self.example_input(), 1.0)]
        told = self._call("latency_inputs")
        if isinstance(told, Tensor | Mapping) or not isinstance(told, Iterable):
            raise UserError(f"task {self.name}: latency_inputs() returned {type(told).__name__}, expected a list of inputs")
        pairs = [
            entry if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], Real | str) else (entry, 1) for entry in told
        ]
        wrong = [weight for _, weight in pairs if isinstance(weight, str) or not 0 < weight < float("inf")]
        if wrong or not pairs or not all(tensors(inputs) for inputs, _ in pairs):
            raise UserError(
                f"task {self.name}: latency_inputs() gave "
                f"{f'the weight {wrong[0]!r}' if wrong else 'an entry without a tensor' if pairs else 'nothing'}, "
                "expected a list of inputs, or of (inputs, weight) with weights above 0"
            )
        total = sum(weight for _, weight in pairs)
        return [(inputs, float(weight / total)) for inputs, weight in pairs]

    @property
    def latency_input(self) -> Inputs:
        """The timed input that weighs most."""
        return max(self.latency_inputs(), key=lambda pair: pair[1])[0]

    @property
    def dynamic_shapes(self) -> Any:
        return getattr(self._source, "DYNAMIC_SHAPES", None)

    @property
    def licence(self) -> str:
        """Licence of the original, as the task names it; empty where it does not."""
        return str(getattr(self._source, "LICENCE", None) or "")

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their numbers; empty where the task names none."""
        return tuple(str(name) for name in getattr(self._source, "CLASSES", None) or ())

    @property
    def metrics(self) -> dict[str, Direction]:
        """{name: direction} of the task's metrics; the first one leads."""
        declared = getattr(self._source, "METRICS", None)
        if declared is None:
            return {
                getattr(self._source, "METRIC_NAME", None) or ("metric" if hasattr(self._source, "metric") else "top-1 accuracy"): "max"
            }
        wrong = [f"{name}={value!r}" for name, value in declared.items() if value not in ("min", "max")]
        if wrong or not declared:
            raise UserError(f"task {self.name}: METRICS has {', '.join(wrong) or 'no entry'}, allowed: a name with 'min' or 'max'")
        return dict(declared)

    def loss(self) -> Callable[..., Tensor] | None:
        """loss(outputs, targets, inputs) for recovery with labels: the task's own, which may take ``inputs`` or not; else
        cross-entropy of class scores."""
        if not hasattr(self._source, "loss"):
            return lambda outputs, targets, inputs: _cross_entropy(outputs, targets)
        return lambda outputs, targets, inputs: self._call("loss", outputs, targets, inputs=inputs)

    def students(self, teacher: nn.Module) -> dict[str, Callable[..., nn.Module]]:
        return dict(self._call("students", teacher)) if hasattr(self._source, "students") else {}

    def has(self, split: str) -> bool:
        """Whether the task has the split: data(split) returns a non-empty iterable."""
        try:
            return next(iter(self.batches(split)), None) is not None
        except (UserError, KeyError, ValueError, FileNotFoundError):
            return False

    def batches(self, split: str) -> Iterator[tuple[Inputs, Any]]:
        """One pass over a split: (inputs, targets), at most ``max_samples`` samples.

        Raises UserError for an iterator that was already handed out, for batches of a wrong form, and for a pass that is
        shorter than an earlier one.
        """
        iterable = self._call("data", split)
        if iterable is None or not isinstance(iterable, Iterable):
            raise UserError(
                f"task {self.name}: data({split!r}) returned {type(iterable).__name__}, expected an iterable of (inputs, targets)"
            )
        if isinstance(iterable, Iterator) and self._handed.get(split) is iterable:
            raise UserError(f"task {self.name}: data({split!r}) handed out the same iterator twice; make a new one for every pass")
        self._handed[split] = iterable
        return self._pass(split, iterable)

    def _pass(self, split: str, iterable: Iterable) -> Iterator[tuple[Inputs, Any]]:
        seen = 0
        for batch in iterable:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise UserError(f"task {self.name}: data({split!r}) gave {type(batch).__name__}, expected pairs (inputs, targets)")
            inputs, targets = batch
            size = batch_size(inputs)
            if self.max_samples is not None and seen + size > self.max_samples:
                take = self.max_samples - seen
                inputs, targets, size = rows(inputs, 0, take), None if targets is None else rows(targets, 0, take, size), take
            if size:
                seen += size
                yield inputs, targets
            if self.max_samples is not None and seen >= self.max_samples:
                break
        before = self._counts.setdefault(split, seen)
        if seen == 0:
            raise UserError(f"task {self.name}: data({split!r}) gave no batch; is the path right?")
        if seen < before:
            raise UserError(
                f"task {self.name}: data({split!r}) gave {seen} samples after {before} in an earlier pass; every pass must be whole"
            )

    def has_targets(self) -> bool:
        """Whether there is something to be right about: labels, or an evaluate() of the task's own. Without, the metric is
        agreement with the original."""
        return hasattr(self._source, "evaluate") or next(iter(self.batches("val")))[1] is not None

    def score(self, predict: Predict, split: str, original: Predict | None = None, batches: Iterable | None = None) -> Score:
        """Metrics of ``predict`` on a split. ``original`` is needed where the data has no targets: then the metric is agreement."""
        batches = self.batches(split) if batches is None else batches
        if hasattr(self._source, "evaluate"):
            counted = _Counted(batches)
            found = self._call("evaluate", predict, counted)
            lead = next(iter(self.metrics))
            if not isinstance(found, Mapping) or lead not in found:
                raise UserError(f"task {self.name}: evaluate() returned {found!r}, expected a dict with {lead!r}")
            return Score({name: float(found[name]) for name in self.metrics if name in found}, None, counted.n)
        parts: list[float] = []
        weights: list[int] = []
        for inputs, targets in batches:
            outputs = predict(inputs)
            each = _agreement(outputs, original, inputs) if targets is None else self._metric(outputs, targets)
            values = [float(each)] if not isinstance(each, Tensor) or each.dim() == 0 else [float(v) for v in each.flatten()]
            parts += values
            weights += [batch_size(inputs)] if len(values) == 1 else [1] * len(values)
        per_unit, counts = np.asarray(parts), np.asarray(weights)
        mean = float((per_unit * counts).sum() / counts.sum())
        even = len(set(weights)) == 1
        return Score({next(iter(self.metrics)): mean}, per_unit if even else None, int(counts.sum()))

    def _metric(self, outputs: Any, targets: Any) -> float | Tensor:
        if hasattr(self._source, "metric"):
            return self._call("metric", outputs, targets)
        scores = tensors(outputs)[0]
        if scores.dim() < 2 or not isinstance(targets, Tensor):
            raise UserError(
                f"task {self.name}: outputs of shape {tuple(scores.shape)} are not class scores; define metric(outputs, targets)"
            )
        return (scores.argmax(1) == targets).float()

    def fingerprint(self) -> str:
        """Hash of the task's source and arguments, to tell studies of different tasks apart."""
        text = repr(sorted(self._args.items())) + repr(self.max_samples)
        path = getattr(self._source, "__file__", None)
        body = Path(path).read_bytes() if path else self.name.encode()
        return hashlib.sha256(body + text.encode()).hexdigest()[:16]


class _Counted:
    """An iterable of batches that counts the samples that went through it."""

    def __init__(self, batches: Iterable) -> None:
        self._batches, self.n = batches, 0

    def __iter__(self) -> Iterator[tuple[Inputs, Any]]:
        for inputs, targets in self._batches:
            self.n += batch_size(inputs)
            yield inputs, targets


def _cross_entropy(outputs: Any, targets: Any) -> Tensor:
    return torch.nn.functional.cross_entropy(tensors(outputs)[0], targets)


def _agreement(outputs: Any, original: Predict | None, inputs: Inputs) -> Tensor:
    """Same class where the outputs are class scores, else 1 - relative error; one value per sample."""
    if original is None:
        raise UserError("the data has no targets and there is no original to agree with")
    got, want = tensors(outputs)[0], tensors(original(inputs))[0]
    if want.dim() == 2 and want.shape[1] > 1:
        return (got.argmax(1) == want.argmax(1)).float()
    error = (got - want).flatten(1).double().norm(dim=1) / want.flatten(1).double().norm(dim=1).clamp_min(1e-12)
    return (1 - error).clamp_min(0).float()


def load(source: str, args: Mapping[str, str] | None = None, max_samples: int | None = None, part: str | None = None) -> Task:
    """A task by path (``task.py``), entry point of the group ``autoslim.tasks``, or importable module (``package.module``).
    ``part`` names one of the task's parts(). Raises UserError with one line."""
    module, name = find(source)
    if hasattr(module, "parts"):
        from autoslim.parts import PartTask

        return PartTask(module, name, args, max_samples, part)
    if part:
        raise UserError(f"--part: got {part!r}, but the task {name} has no parts()")
    return Task(module, name, args, max_samples)


def find(source: str) -> tuple[Any, str]:
    """(the task's module, its name)."""
    if source.endswith(".py") or "/" in source:
        return _from_file(Path(source)), Path(source).stem
    for entry in importlib.metadata.entry_points(group="autoslim.tasks"):
        if entry.name == source:
            return entry.load(), source
    try:
        return importlib.import_module(source), source.rsplit(".", 1)[-1]
    except ModuleNotFoundError as error:
        if error.name and not source.startswith(error.name):
            raise UserError(f"task {source}: needs the package {error.name!r}, which is not installed") from None
        raise UserError(f"--task: got {source!r}, allowed: a path to a .py file, an importable module, or an installed task") from None


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise UserError(f"--task: no file {str(path)!r}")
    name = f"autoslim_task_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the model's classes can be pickled and torch.export can find them
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # a task may import files beside it, as a script may
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"task {path.name}: cannot be loaded, line {_line_of(error, path)}: {type(error).__name__}: {error}") from error
    return module


def _line_of(error: BaseException, path: Path) -> Any:
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = []
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines[-1] if lines else "?"


def predictor(model: nn.Module) -> Predict:
    """A model as a function of inputs, without gradients."""

    def predict(inputs: Inputs) -> Any:
        with torch.no_grad():
            return call(model, inputs)

    return predict


__all__ = ["AGREEMENT", "Score", "Task", "load", "predictor"]
