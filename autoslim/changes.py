"""What compression changed beneath the mean, file against untouched file, on the shipped files.

For every verified file: accuracy class by class, agreement with the original and the divergence of their outputs, from the outputs
that verification has anyway. After verification, as far as there is time: the checks of ``checks/``. What a task does not allow is left out,
not guessed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim import plugins, statistics
from autoslim.digest import Formless, hashed
from autoslim.inputs import Inputs, tensors
from autoslim.outputs import MOST_BYTES, own, size_of
from autoslim.sidebyside import Files, affordable
from autoslim.task import Task

#: classes that are told one by one: those that changed most
MOST_CLASSES = 50
#: seconds of the checks of one file; share of them that a pass over the samples of all checks may take
SECONDS, SHARE = 4.0, 0.75


class Changes:
    """Compares files with the untouched one."""

    def __init__(self, task: Task, open_file: Callable[[Path], Any], split: str, pause: Callable[[], None]) -> None:
        self.task, self.open, self.split, self.pause = task, open_file, split, pause
        self._base: tuple[Path, Remembered] | None = None
        self._samples: dict[float, int] = {}

    def found(self, cache: Any, base_cache: Any) -> dict[str, Any]:
        """{"split", "classes", "agreement", "outputs"}; empty or None where it cannot be told. ``cache`` and ``base_cache`` are the
        Outputs of a pass over the split; where they were too large to keep nothing is told."""
        told: dict[str, Any] = {"split": self.split, "classes": [], "agreement": None, "outputs": []}
        ours, theirs = cache.pairs(), base_cache.pairs()
        if ours and theirs:
            told |= by_class(ours, theirs, self.task.classes) | {"outputs": by_output(ours, theirs)}
        return told

    def checked(self, path: Path, base: Path, seconds: float = SECONDS, within: float = SECONDS) -> dict[str, Any]:
        """{"checks": [{"name", "title", "rows"}], "not_measured": [text]} by the members of checks/; what raises is told, not hidden. ``seconds``
        decides how many samples they take; none is begun after ``within`` seconds, which may be more, so that a busy machine costs no check."""
        file, untouched = self.run(self.open(path)), self.untouched(base)
        checks = {name: plugins.load("checks", name) for name in plugins.names("checks")}
        passes = {name: check.passes(self.task) for name, check in checks.items()}
        n = self.samples(lambda inputs: (file(inputs), untouched.fresh(inputs)), sum(passes.values()), seconds)
        files = Files(self.task, self.split, file, untouched, n)
        told: list[dict[str, Any]] = []
        trouble: list[str] = []
        stop = time.monotonic() + within
        for name, check in checks.items():
            if not passes[name]:
                continue
            if time.monotonic() > stop:
                trouble.append(f"{check.title}: the time for checks was used up")
                continue
            try:
                rows = check.rows(files)
            except Exception as error:  # a task's own evaluate() need not bear other inputs than its data
                trouble.append(f"{check.title}: {type(error).__name__}: {' '.join(str(error).split())[:160]}")
                continue
            told += [{"name": name, "title": check.title, "rows": rows}] if rows else []
        return {"checks": told, "not_measured": trouble}

    def untouched(self, path: Path) -> "Remembered":
        """The untouched file's run, the same for every file that it is compared with."""
        if self._base is None or self._base[0] != path:
            self._base = path, Remembered(self.run(self.open(path)))
            self._samples.clear()
        return self._base[1]

    def samples(self, run: Callable[[Inputs], Any], passes: int, seconds: float) -> int:
        """Samples of a level by the time that ``run`` of both files takes, as many for every file that gets ``seconds``, so that the untouched
        file sees the same inputs again."""
        if seconds not in self._samples:
            inputs = next(iter(self.task.batches(self.split)))[0]
            self._samples[seconds] = affordable(run, inputs, passes, SHARE * seconds)
        return self._samples[seconds]

    def run(self, session: Any) -> Callable[[Inputs], Any]:
        """A session's run, which lets a waiting timing pass before each batch."""

        def predict(inputs: Inputs) -> Any:
            self.pause()
            return session.run(inputs)

        return predict


class Remembered:
    """A run that keeps its outputs by the content of its inputs, at most MOST_BYTES of them: each file meets the same changed inputs."""

    def __init__(self, run: Callable[[Inputs], Any]) -> None:
        self.fresh, self._held = run, 0
        self._known: dict[int, Any] = {}

    def __call__(self, inputs: Inputs) -> Any:
        try:
            key = hashed(inputs)
        except Formless:
            return self.fresh(inputs)
        if key in self._known:
            return self._known[key]
        outputs = self.fresh(inputs)
        self._held += size_of(outputs)
        if self._held <= MOST_BYTES:
            self._known[key] = pytree.tree_map(own, outputs)
        return outputs


# -- outputs ----------------------------------------------------------------------------------------------------------------


def by_output(ours: list[tuple[Any, Any]], theirs: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Rows {"what", "value", "low", "high", "n"}: for class scores the share of equal classes and the mean Kullback-Leibler divergence of
    the file's distribution from the original's in nats; else the mean relative error of the first output. None without equal shapes."""
    pairs = [(tensors(mine)[0].float(), tensors(other)[0].float()) for (_, mine), (_, other) in zip(ours, theirs, strict=False)]
    if len(ours) != len(theirs) or not pairs or any(mine.shape != other.shape or not mine.dim() for mine, other in pairs):
        return []
    if all(mine.dim() == 2 and mine.shape[1] > 1 for mine, _ in pairs):
        same = np.concatenate([(mine.argmax(1) == other.argmax(1)).float().numpy() for mine, other in pairs])
        gaps = np.concatenate([divergence(other, mine).numpy() for mine, other in pairs])
        return [told("same class as the original", same), told("KL divergence from the original, nats", gaps)]
    errors = [
        (mine - other).flatten(1).norm(dim=1) / other.flatten(1).norm(dim=1).clamp_min(1e-12) for mine, other in pairs if mine.dim() > 1
    ]
    return [told("relative error of the outputs", torch.cat(errors).numpy())] if errors else []


def divergence(reference: Tensor, scores: Tensor) -> Tensor:
    """KL(reference || scores) of each sample, (n, classes) logits or log-probabilities -> (n,)."""
    p, q = reference.double().log_softmax(1), scores.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1).clamp_min(0)


def told(what: str, parts: np.ndarray) -> dict[str, Any]:
    """A figure of (n,) parts, one per sample, with its 95 % interval."""
    known = statistics.mean_interval(parts)
    return {"what": what, "value": known.value, "low": known.low, "high": known.high, "n": len(parts)}


# -- classes ----------------------------------------------------------------------------------------------------------------


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
