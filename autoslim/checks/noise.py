"""Gaussian noise on every floating input, in units of that input's own standard deviation."""

from typing import Any

import torch
from torch import Tensor

from autoslim.inputs import tensors
from autoslim.sidebyside import Files, changed
from autoslim.task import Task

LEVELS = (0.1, 0.3)


class Member:
    """0.1 and 0.3 standard deviations: signal to noise of 20 and 10 dB."""

    title = "Gaussian noise"

    def passes(self, task: Task) -> int:
        return len(LEVELS) if any(leaf.is_floating_point() for leaf in tensors(task.example_input())) else 0

    def rows(self, files: Files) -> list[dict[str, Any]]:
        return [files.row(f"{level:g} of the input's deviation", lambda level=level: noisy(files, level)) for level in LEVELS]


def noisy(files: Files, level: float) -> Any:
    """The samples with normal noise of ``level`` times each tensor's own standard deviation."""

    def shaken(leaf: Tensor, generator: torch.Generator) -> Tensor:
        return leaf + level * leaf.std() * torch.randn(leaf.shape, generator=generator, dtype=torch.float32).to(leaf.dtype)

    return changed(files.samples(), shaken)
