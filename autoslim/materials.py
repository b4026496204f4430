"""What candidates of one network are calibrated with, recovered with and held against: drawn from the task once, shared by all."""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autoslim import pool, settings
from autoslim.importance import second_moments
from autoslim.inputs import Inputs, batch_size, call, rows
from autoslim.pool import Pool
from autoslim.recovery import Lesson, Reference
from autoslim.task import Task

#: samples of a batch; of all batches to learn from, held out, and of calibration
LESSON_BATCH, LESSONS, HELD, CALIBRATION = 32, 1024, 256, 128


class Materials:
    """Samples of a task's train split and what the original ``model`` gives on them. ``pause`` is called between batches."""

    def __init__(self, task: Task, model: nn.Module, pause: Callable[[], None]) -> None:
        self._task, self._model, self._pause = task, model, pause
        self._learned: tuple[list[Lesson], list[Lesson], list[Inputs]] | None = None
        self._moments: Mapping[str, torch.Tensor] | None = None
        self._pool: tuple[tuple, Pool | None] | None = None

    def lessons(self) -> tuple[list[Lesson], list[Lesson], list[Inputs]]:
        """(batches to learn from, held-out batches, calibration inputs), all from the train split, read once.

        At most LESSONS + HELD samples stay in memory, however large the data is.
        """
        if self._learned is None:
            split = "train" if self._task.has("train") else "val"
            pieces: list[Lesson] = []
            seen = 0
            for inputs, targets in self._task.batches(split):
                for start in range(0, batch_size(inputs), LESSON_BATCH):
                    self._pause()
                    part = rows(inputs, start, start + LESSON_BATCH)
                    with torch.no_grad():
                        outputs = call(self._model, part)
                    pieces.append(
                        Lesson(part, outputs, None if targets is None else rows(targets, start, start + LESSON_BATCH, batch_size(inputs)))
                    )
                    seen += batch_size(part)
                if seen >= LESSONS + HELD:
                    break
            cut = max(1, min(HELD // LESSON_BATCH, len(pieces) // 5))
            lessons = pieces[:-cut] or pieces
            calibration = [lesson.inputs for lesson in lessons[: max(1, CALIBRATION // LESSON_BATCH)]]
            self._learned = lessons, pieces[-cut:], calibration
        return self._learned

    def pool(self, recovery: Mapping[str, Any]) -> Pool | None:
        """What a distillation with these settings learns from beyond the lessons; None for the lessons alone. The latest is kept, since most
        candidates have the same."""
        told = settings.check(recovery)
        key = int(told["samples"]), told["views"]
        if not told["samples"] or not told["distill_steps"]:
            return None
        if self._pool is None or self._pool[0] != key:
            lessons, held, _ = self.lessons()
            known = [lesson.inputs for lesson in (*lessons, *held)]
            rest = pool.without(self._task.batches("train"), known) if self._task.has("train") else ()
            own = ((lesson.inputs, lesson.targets) for lesson in lessons)
            self._pool = key, pool.build(self._model, itertools.chain(own, rest), *key, self._pause)
        return self._pool[1]

    @functools.cached_property
    def reference(self) -> Reference:
        """What the original gives, for recovery."""
        return Reference.of(self._model, self.lessons()[0], self._pause)

    def moments(self, calibration: list[Inputs]) -> Mapping[str, torch.Tensor]:
        """{layer: E[x^2] per input channel} of the untouched model, computed once."""
        if self._moments is None:
            self._moments = second_moments(self._model, calibration)
        return self._moments
