"""Images moved by a sixteenth and an eighth of their sides."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autoslim.sidebyside import Files, changed, images, only_images
from autoslim.task import Task

SHARES = (1 / 16, 1 / 8)


class Member:
    """Each image diagonally, in one of four directions drawn once for all files; edges are repeated."""

    title = "Shift"

    def passes(self, task: Task) -> int:
        return len(SHARES) if images(task) else 0

    def rows(self, files: Files) -> list[dict[str, Any]]:
        return [files.row(f"{share:.1%} of the sides", lambda share=share: moved(files, share)) for share in SHARES]


def moved(files: Files, share: float) -> Any:
    return changed(files.samples(), only_images(lambda leaf, generator: shifted(leaf, share, generator)))


def shifted(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """(n, c, h, w) -> the same shape, at least one pixel away."""
    height, width = images.shape[2:]
    down, right = max(1, round(share * height)), max(1, round(share * width))
    wide = F.pad(images, (right, right, down, down), mode="replicate")
    corners = torch.randint(4, (len(images),), generator=generator).tolist()
    tops, lefts = [2 * down * (corner // 2) for corner in corners], [2 * right * (corner % 2) for corner in corners]
    return torch.stack([one[:, t : t + height, x : x + width] for one, t, x in zip(wide, tops, lefts, strict=True)])
