"""What a long distillation learns from: many samples of the train split with the original's outputs, and views of them.

A student that starts far from its teacher needs more than the batches that recovery holds. Views are shifted or mirrored images; the teacher
sees the very view that the student sees, so that no label is needed and none can be wrong (Beyer et al. 2022,
https://arxiv.org/abs/2106.05237, "consistent teaching").
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoslim.digest import Formless, parts, samples
from autoslim.inputs import Inputs, batch_size, call, rows
from autoslim.lessons import Lesson, some_of
from autoslim.narrow import channels_last, narrowed, widened

#: samples that the teacher takes at once, samples of a step where nothing else is told, and pixels that a view is moved by at most
PIECE, STEP, SHIFT = 128, 64, 2


@dataclass(frozen=True)
class Pool:
    """All samples as one lesson, every tensor of which has them along its first axis."""

    whole: Lesson
    size: int

    def lesson(self, chosen: Tensor) -> Lesson:
        """The samples with the numbers ``chosen`` (n,) as a batch."""
        return changed(self.whole, lambda leaf: leaf[chosen])

    def drawn(self, count: int, generator: torch.Generator, skipped: int = 0) -> Iterator[Lesson]:
        """Batches of ``count`` samples without end but for the first ``skipped``, every sample once before any comes again; a batch may hold
        the last ones of one order and the first ones of the next."""
        return map(self.lesson, itertools.islice(self.numbers(count, generator), skipped, None))

    def numbers(self, count: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Numbers (count,) of the samples of one batch after the other."""
        order, count = torch.empty(0, dtype=torch.long), min(count, self.size)
        while True:
            while len(order) < count:
                order = torch.cat([order, torch.randperm(self.size, generator=generator)])
            yield order[:count]
            order = order[count:]


def without(batches: Iterable[tuple[Inputs, Any]], known: Iterable[Inputs]) -> Iterator[tuple[Inputs, Any]]:
    """The batches without the samples that are in ``known``, whatever order they come in: a loader may shuffle at each pass. None at all where
    samples cannot be told apart."""
    try:
        seen = {one for inputs in known for one in fingerprints(inputs)}
    except Formless:
        return
    for inputs, targets in batches:
        size = batch_size(inputs)
        new = [place for place, one in enumerate(fingerprints(inputs)) if one not in seen]
        if len(new) == size:
            yield inputs, targets
        elif new:
            yield picked(inputs, new, size), None if targets is None else picked(targets, new, size)


def fingerprints(inputs: Inputs) -> list[int]:
    """A hash of each sample. Raises digest.Formless for samples that are neither tensors, arrays, texts nor numbers."""
    size = batch_size(inputs)
    return samples(parts(inputs, size)[0], size)


def picked(batch: Any, places: list[int], size: int) -> Any:
    """The samples at ``places`` of a batch of ``size``; see inputs.rows."""

    def is_list(part: Any) -> bool:
        return isinstance(part, list) and len(part) == size

    def act(leaf: Any) -> Any:
        if is_list(leaf):
            return [leaf[place] for place in places]
        return leaf[places] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == size else leaf

    return pytree.tree_map(act, batch, is_leaf=is_list)


def gathered(batches: Iterable[tuple[Inputs, Any]], most: int) -> Lesson | None:
    """Up to ``most`` samples as one lesson without outputs; None where there are none, or where batches cannot be joined, as sequences of
    several lengths cannot."""
    pieces: list[Lesson] = []
    kept = 0
    for inputs, targets in batches:
        size = batch_size(inputs)
        part = rows(inputs, 0, most - kept), None if targets is None else rows(targets, 0, most - kept, size)
        pieces.append(Lesson(part[0], None, part[1]))
        kept += min(size, most - kept)
        if kept >= most:
            break
    try:
        return joined(pieces) if pieces else None
    except (RuntimeError, ValueError):
        return None


def joined(pieces: Sequence[Lesson]) -> Lesson:
    """Lessons of equal form as one. Raises RuntimeError for tensors of several shapes, ValueError for what is no tensor of samples."""

    def together(leaves: tuple[Any, ...]) -> Tensor:
        if not all(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves):
            raise ValueError("a leaf has no axis of samples")
        return torch.cat(leaves)

    def along(parts: list[Any]) -> Any:
        return None if parts[0] is None else pytree.tree_map(lambda *leaves: together(leaves), *parts)

    return Lesson(*(along([getattr(piece, name) for piece in pieces]) for name in ("inputs", "outputs", "targets")))


def changed(lesson: Lesson, act: Callable[[Tensor], Tensor]) -> Lesson:
    """A lesson with ``act`` done to every tensor."""
    return Lesson(*(None if part is None else pytree.tree_map(act, part) for part in (lesson.inputs, lesson.outputs, lesson.targets)))


def build(
    teacher: nn.Module, batches: Iterable[tuple[Inputs, Any]], samples: int, views: str, pause: Callable[[], None], seed: int = 0
) -> Pool | None:
    """``samples`` samples with the teacher's outputs: those of ``batches``, and where they do not suffice, views of them ("none": no more
    than there are). None where they cannot be joined. Targets that are maps would not fit a moved image: those samples get no views. The
    teacher runs as students do, see narrow.py."""
    found = gathered(batches, samples)
    if found is None:
        return None
    if any(leaf.dim() > 2 for leaf in pytree.tree_leaves(found.targets) if isinstance(leaf, Tensor)):
        views = "none"
    generator, parts, size = torch.Generator().manual_seed(seed), [found], batch_size(found.inputs)
    while views != "none" and size * len(parts) < samples:
        some = min(size, samples - size * len(parts))
        part = changed(found, lambda leaf, some=some: leaf[:some])
        parts.append(Lesson(viewed(part.inputs, views, generator), None, part.targets))
    whole = joined(parts)
    outputs, size = [], batch_size(whole.inputs)
    fast = channels_last(teacher, rows(whole.inputs, 0, 2, size))
    with torch.no_grad(), narrowed(teacher):
        for start in range(0, size, PIECE):
            pause()
            outputs.append(pytree.tree_map(widened, call(fast, rows(whole.inputs, start, start + PIECE, size))))
    try:
        told = joined([Lesson(None, part) for part in outputs]).outputs
    except (RuntimeError, ValueError):
        return None
    return Pool(Lesson(whole.inputs, told, whole.targets), size)


def viewed(inputs: Inputs, views: str, generator: torch.Generator) -> Inputs:
    """Images (n, channels, h, w), each moved by up to SHIFT pixels ("shift"), and half of them mirrored too ("mirror"); edges are repeated.
    Other tensors are left as they are."""

    def act(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() != 4 or not leaf.is_floating_point():
            return leaf
        n, _, tall, wide = leaf.shape
        down, right = torch.randint(2 * SHIFT + 1, (2, n), generator=generator)
        mirrored = torch.rand(n, generator=generator) < (0.5 if views == "mirror" else 0.0)
        columns = torch.arange(wide)[None] + right[:, None]
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        wider = F.pad(leaf, (SHIFT,) * 4, mode="replicate")
        lines = torch.arange(tall)[None] + down[:, None]
        return wider[torch.arange(n)[:, None, None], :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    return pytree.tree_map(act, inputs)


def drawn(lessons: Sequence[Lesson] | Pool, count: int, generator: torch.Generator, skipped: int = 0) -> Iterator[Lesson]:
    """What one step after the other learns from, without end but for the first ``skipped``: each batch once before any comes again, ``count``
    samples of it, or batches of as many samples drawn from a pool."""
    if isinstance(lessons, Pool):
        return lessons.drawn(count or STEP, generator, skipped)
    return itertools.islice(dealt(lessons, count, generator), skipped, None)


def dealt(lessons: Sequence[Lesson], count: int, generator: torch.Generator) -> Iterator[Lesson]:
    """Each batch once before any comes again, ``count`` samples of it, without end."""
    while True:
        for place in reversed(torch.randperm(len(lessons), generator=generator).tolist()):
            yield some_of(lessons[place], count, generator)
