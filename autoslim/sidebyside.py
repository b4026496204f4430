"""Two files side by side: what a check of ``checks/`` gets, and the rows that it gives."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim import statistics
from autoslim.inputs import Inputs, batch_size, rows, tensors
from autoslim.task import Score, Task

Predict = Callable[[Inputs], Any]
Batches = Iterable[tuple[Inputs, Any]]
#: samples of a level: at most, at least
MOST, FEWEST = 512, 32
#: sides of an image that are not sides of a table
SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Files:
    """A file and the untouched one as functions, on one split of a task; ``n`` samples are affordable for a level."""

    task: Task
    split: str
    file: Predict
    untouched: Predict
    n: int

    def samples(self) -> Iterator[tuple[Inputs, Any]]:
        """The first ``n`` samples of the split."""
        return first(self.task.batches(self.split), self.n)

    def row(self, level: str, batches: Callable[[], Batches]) -> dict[str, Any]:
        """The leading metric of both files on the same batches: {"level", "n", "untouched", "file", "drop", "low", "high"}."""
        base = self.task.score(self.untouched, self.split, self.untouched, batches())
        score = self.task.score(self.file, self.split, self.untouched, batches())
        sign = 1.0 if next(iter(self.task.metrics.values())) == "max" else -1.0
        return {"level": level, "n": score.n, **difference(base, score, sign)}


def difference(base: Score, score: Score, sign: float) -> dict[str, Any]:
    """{"untouched", "file", "drop", "low", "high"}; no interval where the metric has no parts."""
    value, reference = next(iter(score.values.values())), next(iter(base.values.values()))
    low = high = None
    if score.per_unit is not None and base.per_unit is not None and len(score.per_unit) == len(base.per_unit):
        known = statistics.paired_interval(base.per_unit * sign, score.per_unit * sign)
        low, high = known.low, known.high
    return {"untouched": reference, "file": value, "drop": (reference - value) * sign, "low": low, "high": high}


def affordable(run: Predict, inputs: Inputs, passes: int, seconds: float) -> int:
    """How many samples each of ``passes`` may take, by the time of a batch in ``run``, which runs both files."""
    run(inputs)
    begun = time.perf_counter()
    run(inputs)
    each = (time.perf_counter() - begun) / max(batch_size(inputs), 1)
    return int(min(MOST, max(FEWEST, seconds / (max(passes, 1) * max(each, 1e-9)))))


def first(batches: Batches, n: int) -> Iterator[tuple[Inputs, Any]]:
    """The first ``n`` samples."""
    seen = 0
    for inputs, targets in batches:
        size = min(batch_size(inputs), n - seen)
        if size < batch_size(inputs):
            targets = None if targets is None else rows(targets, 0, size, batch_size(inputs))
            inputs = rows(inputs, 0, size)
        yield inputs, targets
        seen += size
        if seen >= n:
            return


def changed(batches: Batches, change: Callable[[Tensor, torch.Generator], Tensor], seed: int = 0) -> Batches:
    """``change`` done to every floating tensor of the inputs with more than one value; the same for every file."""
    generator = torch.Generator().manual_seed(seed)

    def one(leaf: Any) -> Any:
        return change(leaf, generator) if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() > 1 else leaf

    for inputs, targets in batches:
        yield pytree.tree_map(one, inputs), targets


def kind(task: Task) -> str:
    """image, text, audio or other: what the task says of its inputs, else images and texts by the example's shape."""
    if task.input_kind:
        return task.input_kind
    found = tensors(task.example_input())
    if is_image(found[0]):
        return "image"
    return "text" if not found[0].is_floating_point() and found[0].dim() == 2 else "other"


def is_image(leaf: Tensor) -> bool:
    """(batch, 1 or 3 channels, height, width) of numbers."""
    return leaf.is_floating_point() and leaf.dim() == 4 and leaf.shape[1] in (1, 3) and min(leaf.shape[2:]) >= SMALLEST_SIDE


def images(task: Task) -> bool:
    """Whether there is an image to change: by kind and shape."""
    return kind(task) == "image" and any(is_image(leaf) for leaf in tensors(task.example_input()))


def only_images(change: Callable[[Tensor, torch.Generator], Tensor]) -> Callable[[Tensor, torch.Generator], Tensor]:
    """``change`` for images, other tensors as they are."""
    return lambda leaf, generator: change(leaf, generator) if is_image(leaf) else leaf
