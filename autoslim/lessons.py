"""Lessons: batches to learn from or to be judged by, and how far a model is from the original on them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import distances
from autoslim.inputs import Inputs, batch_size, call, rows


@dataclass(frozen=True)
class Lesson:
    """One batch to learn from: inputs, the original's outputs, and the targets (None where the task has none)."""

    inputs: Inputs
    outputs: Any
    targets: Any = None


def apart(got: Any, lesson: Lesson, outputs: str, temperature: float = 1.0) -> Tensor:
    """How far outputs are from the original's on one lesson, positions without a target left out; see distances.py."""
    axes = distances.classes(lesson.outputs, lesson.targets, outputs)
    return distances.divergence(got, lesson.outputs, axes, temperature, distances.positions(lesson.targets))


def judge(model: nn.Module, held: Sequence[Lesson], pause: Callable[[], None], outputs: str = "auto") -> float:
    """Mean gap over the held-out batches, of what ``outputs`` and the targets say that outputs are; infinite where it is not a number."""
    return mean_of(lambda got, lesson: apart(got, lesson, outputs), model, held, pause)


def mean_of(told: Callable[[Any, Lesson], Tensor], model: nn.Module, held: Sequence[Lesson], pause: Callable[[], None]) -> float:
    """Mean of what is told of a model's outputs on each lesson; infinite where it is not a number."""
    total = 0.0
    with torch.no_grad():
        for lesson in held:
            pause()
            total += float(told(call(model, lesson.inputs), lesson))
    mean = total / max(len(held), 1)
    return mean if mean == mean else float("inf")


def some_of(lesson: Lesson, count: int, generator: torch.Generator) -> Lesson:
    """``count`` consecutive samples of a batch, from anywhere in it; all where it has no more, or ``count`` is 0."""
    size = batch_size(lesson.inputs)
    if not 0 < count < size:
        return lesson
    start = int(torch.randint(size - count + 1, (), generator=generator))
    return Lesson(*(rows(part, start, start + count, size) for part in (lesson.inputs, lesson.outputs, lesson.targets)))
