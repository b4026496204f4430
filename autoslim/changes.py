"""What compression changed beneath the mean: accuracy class by class, and accuracy under noise, file against untouched file.

Both are measured on the shipped files. What a task does not allow (no class labels, no floating inputs) is left out, not guessed.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim import statistics
from autoslim.inputs import Inputs, batch_size, rows, tensors
from autoslim.task import Score, Task

#: standard deviations of the noise, in units of each input's own
LEVELS = (0.1, 0.3)
#: samples under noise: at most so many, fewer where the untouched file is slow, and seconds that one level may take there
MOST, FEWEST, SECONDS = 512, 32, 1.5
#: classes that are told one by one: those that changed most
MOST_CLASSES = 50

Predict = Callable[[Inputs], Any]
Batches = Iterable[tuple[Inputs, Any]]


class Changes:
    """Compares files with the untouched one, whose scores under noise are taken once."""

    def __init__(self, task: Task, open_file: Callable[[Path], Any], split: str, pause: Callable[[], None]) -> None:
        self.task, self.open, self.split, self.pause = task, open_file, split, pause
        self._noisy: dict[Path, tuple[int, list[Score]]] = {}

    def found(self, path: Path, base: Path, cache: Any, base_cache: Any) -> dict[str, Any]:
        """{"split", "classes", "agreement", "noise"}; empty or None where it cannot be told. ``cache`` and ``base_cache`` hold the batches and
        outputs of a pass over the split."""
        told: dict[str, Any] = {"split": self.split, "classes": [], "agreement": None, "noise": []}
        if cache.whole and base_cache.whole:
            told |= by_class(outputs_of(cache), outputs_of(base_cache), self.task.classes)
        try:
            told["noise"] = self.noise(path, base)
        except Exception as error:  # a task's own evaluate() need not bear other inputs than its data
            told["not_measured"] = f"noise: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
        return told

    # -- noise ----------------------------------------------------------------------------------------------------------

    def noise(self, path: Path, base: Path) -> list[dict[str, Any]]:
        """One row per level: {"level", "n", "untouched", "file", "drop", "low", "high"}; empty for inputs without floating tensors."""
        if not any(leaf.is_floating_point() for leaf in tensors(next(iter(self.task.batches(self.split)))[0])):
            return []
        if base not in self._noisy:
            n = self.affordable(base)
            self._noisy = {base: (n, [self.under(base, base, level, n) for level in LEVELS])}
        n, reference = self._noisy[base]
        return [self.row(level, reference[i], self.under(path, base, level, n)) for i, level in enumerate(LEVELS)]

    def affordable(self, base: Path) -> int:
        """How many samples one level may take, by the time of the first batch."""
        run, (inputs, _) = self.open(base).run, next(iter(self.task.batches(self.split)))
        run(inputs)
        begun = time.perf_counter()
        run(inputs)
        each = (time.perf_counter() - begun) / max(batch_size(inputs), 1)
        return int(min(MOST, max(FEWEST, SECONDS / max(each, 1e-9))))

    def under(self, path: Path, base: Path, level: float, n: int) -> Score:
        """Score of a file on the first ``n`` samples with noise; the same noise for every file."""
        session, original = self.open(path), self.open(base)

        def predict(inputs: Inputs) -> Any:
            self.pause()
            return session.run(inputs)

        return self.task.score(predict, self.split, original.run, noisy(self.task.batches(self.split), level, n))

    def row(self, level: float, base: Score, score: Score) -> dict[str, Any]:
        sign = 1.0 if next(iter(self.task.metrics.values())) == "max" else -1.0
        value, reference = next(iter(score.values.values())), next(iter(base.values.values()))
        low = high = None
        if score.per_unit is not None and base.per_unit is not None and len(score.per_unit) == len(base.per_unit):
            known = statistics.paired_interval(base.per_unit * sign, score.per_unit * sign)
            low, high = known.low, known.high
        return {
            "level": level,
            "n": score.n,
            "untouched": reference,
            "file": value,
            "drop": (reference - value) * sign,
            "low": low,
            "high": high,
        }


def noisy(batches: Batches, level: float, n: int) -> Batches:
    """The first ``n`` samples with Gaussian noise on every floating tensor, ``level`` times that tensor's own standard deviation."""
    generator = torch.Generator().manual_seed(0)

    def shaken(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.numel() < 2:
            return leaf
        return leaf + level * leaf.std() * torch.randn(leaf.shape, generator=generator, dtype=torch.float32).to(leaf.dtype)

    seen = 0
    for inputs, targets in batches:
        size = min(batch_size(inputs), n - seen)
        if size < batch_size(inputs):
            targets = None if targets is None else rows(targets, 0, size, batch_size(inputs))
            inputs = rows(inputs, 0, size)
        yield pytree.tree_map(shaken, inputs), targets
        seen += size
        if seen >= n:
            return


# -- classes ----------------------------------------------------------------------------------------------------------------


def outputs_of(cache: Any) -> list[tuple[Any, Any]]:
    """(targets, outputs) of every batch that a cache remembers."""
    return [(targets, cache.recall(inputs)) for inputs, targets in cache.batches]


def by_class(ours: list[tuple[Any, Any]], theirs: list[tuple[Any, Any]], names: tuple[str, ...] = ()) -> dict[str, Any]:
    """{"classes": rows, "agreement": share of equal classes}; nothing where targets are not class numbers of class scores."""
    if len(ours) != len(theirs) or not all(is_classes(*pair) for pair in ours):
        return {}
    labels, again = (torch.cat([targets for targets, _ in side]).numpy() for side in (ours, theirs))
    if not np.array_equal(labels, again):  # two passes over the data gave other samples
        return {}
    guesses, base = (torch.cat([tensors(outputs)[0].argmax(1) for _, outputs in side]).numpy() for side in (ours, theirs))
    found = [class_row(label, base[labels == label] == label, guesses[labels == label] == label, names) for label in np.unique(labels)]
    told = sorted(found, key=lambda row: -abs(row["drop"]))[:MOST_CLASSES]
    return {"classes": sorted(told, key=lambda row: row["number"]), "agreement": float((guesses == base).mean())}


def is_classes(targets: Any, outputs: Any) -> bool:
    """Whether a batch has one whole number per sample and class scores of two axes."""
    found = tensors(outputs)
    return (
        isinstance(targets, Tensor)
        and targets.dim() == 1
        and not targets.is_floating_point()
        and bool(found)
        and found[0].dim() == 2
        and len(found[0]) == len(targets)
    )


def class_row(label: Any, base: np.ndarray, ours: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """One class: right answers of both files on its (n,) samples, and the drop with its interval."""
    low, high = paired_proportions(int((base & ~ours).sum()), int((ours & ~base).sum()), len(base))
    number = int(label)
    return {
        "number": number,
        "class": names[number] if 0 <= number < len(names) else str(number),
        "n": len(base),
        "untouched": float(base.mean()),
        "file": float(ours.mean()),
        "drop": float(base.mean() - ours.mean()),
        "low": low,
        "high": high,
    }


def paired_proportions(lost: int, won: int, n: int) -> tuple[float, float]:
    """95 % interval of the difference of two paired proportions, (lost - won) / n: half a pair is added to each of the four cells
    (Agresti and Min 2005, Statistics in Medicine 24, the Wald interval with Laplace's adjustment), so that small classes are not certain."""
    b, c, m = lost + 0.5, won + 0.5, n + 2
    centre, spread = (b - c) / m, max(0.0, (b + c) - (b - c) ** 2 / m) ** 0.5 / m
    return max(-1.0, centre - statistics.Z * spread), min(1.0, centre + statistics.Z * spread)
