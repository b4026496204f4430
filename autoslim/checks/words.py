"""A tenth and a fifth of the words of a text hidden behind the unknown word."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim.inputs import tensors
from autoslim.sidebyside import Batches, Files, kind
from autoslim.task import Task

SHARES = (0.1, 0.2)


class Member:
    """Only for tasks with a function ``text()`` that names the number of the unknown (or padding) word; see docs/task.md."""

    title = "Words dropped"

    def passes(self, task: Task) -> int:
        return len(SHARES) if task.text and kind(task) == "text" else 0

    def rows(self, files: Files) -> list[dict[str, Any]]:
        told = files.task.text
        return [files.row(f"{share:.0%} of the words", lambda share=share: dropped(files.samples(), share, told)) for share in SHARES]


def dropped(batches: Batches, share: float, told: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Batches whose word numbers are replaced by ``told["unknown"]`` with probability ``share``; those of ``told["keep"]`` stay."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.tensor(sorted({*told.get("keep", ()), told["unknown"]}))
    for inputs, targets in batches:
        words = inputs[told["input"]] if told.get("input") is not None else tensors(inputs)[0]
        gone = (torch.rand(words.shape, generator=generator) < share) & ~torch.isin(words, kept)
        fewer = words.masked_fill(gone, told["unknown"])
        yield pytree.tree_map(lambda leaf, old=words, new=fewer: new if isinstance(leaf, Tensor) and leaf is old else leaf, inputs), targets
