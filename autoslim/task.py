"""A user's task: model, example input, data splits and metric, behind one object that checks what it is given."""

import hashlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.baking import baked
from autoslim.crumbs import running
from autoslim.errors import AutoSlimError, TaskFailed, UserError
from autoslim.inputs import Inputs, batch_size, call, rows, tensors
from autoslim.locating import find, line_of
from autoslim.metrics import Direction
from autoslim.passes import Counted, drawn

REQUIRED = ("model", "example_input", "data")
REQUIRED_OF_PARTS = ("parts", "data")
OPTIONAL = (
    "metric",
    "METRIC_NAME",
    "evaluate",
    "METRICS",
    "loss",
    "students",
    "initial",
    "parts",
    "DYNAMIC_SHAPES",
    "latency_inputs",
    "LICENCE",
    "CLASSES",
    "INPUT_KIND",
    "SHIFTS",
    "text",
    "notes",
)
KINDS = ("image", "text", "audio", "other")
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
        """Call one of the task's functions with those of ``optional`` and of the task's arguments that it takes. Raises TaskFailed for what
        it raises; data() alone raises its errors as they are, since some of them say that there is no such split."""
        function = getattr(self._source, part)
        taken = inspect.signature(function).parameters
        told = {key: value for key, value in (*optional.items(), *self._args.items()) if key in taken}
        try:
            with running(f"task {self.name}: {part}()"):
                return function(*args, **told)
        except (Exception, SystemExit) as error:
            if isinstance(error, AutoSlimError | MemoryError) or part == "data" and isinstance(error, Exception):
                raise
            raise self.fault(f"{part}()", error) from error

    def fault(self, what: str, error: BaseException) -> TaskFailed:
        """What one of the task's functions raised, in one line, with the latest line of the task's file that it came from."""
        path = getattr(self._source, "__file__", None)
        line = line_of(error, Path(path)) if path else "?"
        place = "" if line == "?" else f", line {line} of {Path(path).name}"
        return TaskFailed(f"task {self.name}: {what} raised {type(error).__name__}: {' '.join(str(error).split())[:300]}{place}")

    def model(self) -> nn.Module:
        """The trained network, in eval mode; weights that are computed from others are plain tensors in it, attention has linear layers."""
        model = self._call("model")
        if not isinstance(model, nn.Module):
            raise UserError(f"task {self.name}: model() returned a {type(model).__name__}, expected a torch.nn.Module")
        return baked(model.eval(), self._example()).eval()

    def _example(self) -> Inputs | None:
        """The example, None where it cannot be had, which is told where it is asked for."""
        try:
            return self.example_input()
        except (Exception, SystemExit):
            return None

    def example_input(self) -> Inputs:
        """The task's example, a batch of one. Raises UserError for one without a tensor."""
        example = self._call("example_input")
        if not tensors(example):
            raise UserError(
                f"task {self.name}: example_input() returned {type(example).__name__} without a tensor, expected a tensor, tuple or dict"
            )
        return example

    def refuse_unfit(self, model: nn.Module, example: Inputs) -> None:
        """Raise UserError where a weight is no finite number, of which every compressed one would agree with it, and TaskFailed where the network
        does not run on its own example."""
        for name, weight in model.named_parameters():
            if weight.is_floating_point() and not weight.isfinite().all():
                odd = int((~weight.isfinite()).sum())
                raise UserError(
                    f"task {self.name}: model() gave the weight {name!r} with {odd} of {weight.numel()} values that are no finite numbers, "
                    "expected finite ones; load another checkpoint"
                )
        try:
            with running(f"task {self.name}: forward()"):
                predictor(model)(example)
        except (Exception, SystemExit) as error:
            if isinstance(error, AutoSlimError | MemoryError):
                raise
            raise self.fault("the model on example_input()", error) from error

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
    def input_kind(self) -> str:
        """What the task says of its inputs, empty where it says nothing. Raises UserError for another kind than KINDS."""
        told = getattr(self._source, "INPUT_KIND", None) or ""
        if told and told not in KINDS:
            raise UserError(f"task {self.name}: INPUT_KIND is {told!r}, allowed: {', '.join(KINDS)}")
        return told

    @property
    def notes(self) -> tuple[str, ...]:
        """What the task has to say of its network, such as that it was never trained."""
        return tuple(self._call("notes")) if hasattr(self._source, "notes") else ()

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the task's shifted test sets, read by data("shift:NAME")."""
        return tuple(str(name) for name in getattr(self._source, "SHIFTS", None) or ())

    @property
    def text(self) -> Mapping[str, Any] | None:
        """{"unknown": number of the unknown word, "keep": numbers that are no words, "input": key of the input that holds words}, of which
        the first is needed; None where the task does not tell. Raises UserError without it."""
        found = self._call("text") if hasattr(self._source, "text") else None
        if found is not None and not isinstance(found.get("unknown"), int):
            raise UserError(f"task {self.name}: text() returned {found!r}, expected a dict with the number of the 'unknown' word")
        return found

    @property
    def metrics(self) -> dict[str, Direction]:
        """{name: direction} of the task's metrics; the first one leads. Raises UserError for another direction, or none."""
        declared = getattr(self._source, "METRICS", None)
        if declared is None:
            return {
                getattr(self._source, "METRIC_NAME", None) or ("metric" if hasattr(self._source, "metric") else "top-1 accuracy"): "max"
            }
        wrong = [f"{name}={value!r}" for name, value in declared.items() if value not in ("min", "max")]
        if wrong or not declared:
            raise UserError(f"task {self.name}: METRICS has {', '.join(wrong) or 'no entry'}, allowed: a name with 'min' or 'max'")
        return dict(declared)

    @property
    def judge(self) -> str:
        """What computes the metrics, as the user knows it."""
        own = [part for part in ("evaluate", "metric") if hasattr(self._source, part)]
        return f"{own[0]}()" if own else "the built-in accuracy"

    def loss(self) -> Callable[..., Tensor] | None:
        """loss(outputs, targets, inputs) for recovery with labels: the task's own, which may take ``inputs`` or not; else
        cross-entropy of class scores."""
        if not hasattr(self._source, "loss"):
            return lambda outputs, targets, inputs: _cross_entropy(outputs, targets)
        return lambda outputs, targets, inputs: self._call("loss", outputs, targets, inputs=inputs)

    def students(self, teacher: nn.Module) -> dict[str, Callable[..., nn.Module]]:
        return dict(self._call("students", teacher)) if hasattr(self._source, "students") else {}

    def initial(self) -> dict[str, Tensor]:
        """The network's weights before it was trained, or early in its training: what initial() of the task gives, a state dict or a module.
        Raises UserError for a task without it."""
        if not hasattr(self._source, "initial"):
            raise UserError(f"task {self.name}: recovery has rewind: initial, but the task defines no initial()")
        found = self._call("initial")
        state = baked(found).state_dict() if isinstance(found, nn.Module) else found
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise UserError(f"task {self.name}: initial() returned a {type(found).__name__}, expected a torch.nn.Module or its state dict")
        return dict(state)

    def has(self, split: str) -> bool:
        """Whether the task has the split: data(split) returns a non-empty iterable. Raises TaskFailed where its first batch cannot be drawn
        for another reason than those that say that there is no such split."""
        return self._drawable(split, self.batches)

    def _drawable(self, split: str, batches: Callable[[str], Iterator]) -> bool:
        try:
            return next(iter(batches(split)), None) is not None
        except (HandedTwice, TaskFailed, MemoryError):
            raise
        except (UserError, KeyError, ValueError, FileNotFoundError):
            return False
        except (Exception, SystemExit) as error:
            raise self.fault(f"data({split!r})", error) from error

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
            raise HandedTwice(f"task {self.name}: data({split!r}) handed out the same iterator twice; make a new one for every pass")
        self._handed[split] = iterable
        return self._whole(split, self._pass(split, iterable))

    def _whole(self, split: str, batches: Iterator[tuple[Inputs, Any]]) -> Iterator[tuple[Inputs, Any]]:
        """The batches; what the task raises in the middle of them is told as what it is. An error in the first one passes as it is, since some
        say that there is no such split."""
        begun = False
        try:
            for batch in batches:
                begun = True
                yield batch
        except (Exception, SystemExit) as error:
            if isinstance(error, AutoSlimError | MemoryError) or not begun and isinstance(error, Exception):
                raise
            raise self.fault(f"data({split!r})", error) from error

    def _pass(self, split: str, iterable: Iterable) -> Iterator[tuple[Inputs, Any]]:
        seen = 0
        for batch in drawn(iterable, f"task {self.name}: data({split!r})"):
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

    @property
    def is_corpus(self) -> bool:
        """Whether the metric is one figure of all batches, from the task's own ``evaluate()``."""
        return hasattr(self._source, "evaluate")

    def score(self, predict: Predict, split: str, original: Predict | None = None, batches: Iterable | None = None) -> Score:
        """Metrics of ``predict`` on a split. ``original`` is needed where the data has no targets: then the metric is agreement.
        Raises UserError for what gives no metric, and TaskFailed for what the task's own code raises."""
        batches = self.batches(split) if batches is None else batches
        if hasattr(self._source, "evaluate"):
            counted = Counted(batches)
            found = self._call("evaluate", predict, counted)
            lead = next(iter(self.metrics))
            if not isinstance(found, Mapping) or lead not in found:
                raise UserError(f"task {self.name}: evaluate() returned {found!r}, expected a dict with {lead!r}")
            return Score({name: self._numbers(found[name])[0] for name in self.metrics if name in found}, None, counted.n)
        parts: list[float] = []
        weights: list[int] = []
        for inputs, targets in batches:
            outputs = predict(inputs)
            each = _agreement(outputs, original, inputs) if targets is None else self._metric(outputs, targets)
            values = self._numbers(each)
            parts += values
            weights += [batch_size(inputs)] if len(values) == 1 else [1] * len(values)
        per_unit, counts = np.asarray(parts), np.asarray(weights)
        mean = float((per_unit * counts).sum() / counts.sum())
        even = len(set(weights)) == 1
        return Score({next(iter(self.metrics)): mean}, per_unit if even else None, int(counts.sum()))

    def _numbers(self, told: Any) -> list[float]:
        """What a metric gave as numbers: one of a batch, or one per sample. Raises UserError for anything else."""
        try:
            return [float(told)] if not isinstance(told, Tensor) or told.dim() == 0 else [float(value) for value in told.flatten()]
        except (TypeError, ValueError, OverflowError):
            raise UserError(
                f"task {self.name}: {self.judge} gave {' '.join(repr(told).split())[:80]}, expected a number, or of metric() a tensor of one per sample"
            ) from None

    def _metric(self, outputs: Any, targets: Any) -> float | Tensor:
        if hasattr(self._source, "metric"):
            return self._call("metric", outputs, targets)
        scores = tensors(outputs)[0]
        if scores.dim() < 2 or not isinstance(targets, Tensor):
            raise UserError(
                f"task {self.name}: outputs of shape {tuple(scores.shape)} are not class scores; define metric(outputs, targets)"
            )
        chosen = scores.argmax(1)
        if chosen.shape != targets.shape:
            raise UserError(
                f"task {self.name}: targets of shape {tuple(targets.shape)} do not fit outputs of shape {tuple(scores.shape)}, expected class "
                f"numbers of shape {tuple(chosen.shape)}; else define metric(outputs, targets)"
            )
        return (chosen == targets).float()

    def fingerprint(self) -> str:
        """Hash of the task's source and arguments, to tell studies of different tasks apart."""
        text = repr(sorted(self._args.items())) + repr(self.max_samples)
        path = getattr(self._source, "__file__", None)
        body = Path(path).read_bytes() if path else self.name.encode()
        return hashlib.sha256(body + text.encode()).hexdigest()[:16]


class HandedTwice(UserError):
    """data() returned an iterator that an earlier pass has used up."""


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


def finite(task: Task, score: Score, split: str) -> float:
    """The leading metric of a score. Raises TaskFailed where it is no finite number, which nothing can be compared with."""
    name, value = next(iter(score.values.items()))
    if not math.isfinite(value):
        raise TaskFailed(
            f"task {task.name}: {name} on {split!r} is {value}, expected a finite number; look for a division by zero in "
            f"{task.judge}, or for outputs that are not finite",
            "metric",
        )
    return value


def predictor(model: nn.Module) -> Predict:
    """A model as a function of inputs, without gradients."""

    def predict(inputs: Inputs) -> Any:
        with torch.no_grad():
            return call(model, inputs)

    return predict


__all__ = ["AGREEMENT", "Score", "Task", "finite", "load", "predictor"]
