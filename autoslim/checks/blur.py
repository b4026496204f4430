"""Images blurred by a Gaussian of one and two pixels."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from autoslim.sidebyside import Files, changed, images, only_images
from autoslim.task import Task

SIGMAS = (1.0, 2.0)


class Member:
    """Edges are repeated beyond the border (Hendrycks and Dietterich 2019, https://arxiv.org/abs/1903.12261, blur corruptions)."""

    title = "Blur"

    def passes(self, task: Task) -> int:
        return len(SIGMAS) if images(task) else 0

    def rows(self, files: Files) -> list[dict[str, Any]]:
        return [files.row(f"sigma {sigma:g} px", lambda sigma=sigma: blurred(files, sigma)) for sigma in SIGMAS]


def blurred(files: Files, sigma: float) -> Any:
    return changed(files.samples(), only_images(lambda leaf, _: blur(leaf, sigma)))


def blur(images: Tensor, sigma: float) -> Tensor:
    """(n, c, h, w) -> the same shape; a separable kernel cut at three sigmas."""
    reach = min(int(3 * sigma + 0.5), *(side - 1 for side in images.shape[2:]))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float32) / sigma) ** 2)
    line = (line / line.sum()).to(images.dtype)
    channels = images.shape[1]
    for shape, pad in (((1, 1, -1, 1), (0, 0, reach, reach)), ((1, 1, 1, -1), (reach, reach, 0, 0))):
        kernel = line.view(shape).repeat(channels, 1, 1, 1)
        images = F.conv2d(F.pad(images, pad, mode="replicate"), kernel, groups=channels)
    return images
