"""Images for the short cuts: folders in ImageFolder form, and noise."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoslim.errors import UserError
from autoslim.tasks import _source

ALLOWED = {"imagefolder": "PATH (folders train, val and test)", "random": "N (N batches of noise)"}
Images = Iterator[tuple[Tensor, Tensor | None]]


def batches(split: str, data: str, shape: tuple[int, int, int], transform: Callable[[], Callable[[Any], Tensor]]) -> Images:
    """Batches of images (batch, *shape) with their labels (batch,), or of normal noise with None. ``transform`` makes what
    turns a PIL image into a tensor of ``shape``; it is called for folders only."""
    kind, where = _source.read(data, ALLOWED)
    if kind == "random":
        return noise(_source.generator(split), _source.random_batches(where), shape)
    folder = Path(where) / split
    if not folder.is_dir():
        raise UserError(f"--data: no folder {str(folder)!r}; expected train, val and test in ImageFolder form below {where!r}")
    return _folder(folder, transform())


def noise(generator: torch.Generator, count: int, shape: tuple[int, int, int]) -> Images:
    """``count`` batches of normal noise, without labels."""
    for _ in range(count):
        yield torch.randn(_source.BATCH, *shape, generator=generator), None


def _folder(folder: Path, transform: Callable[[Any], Tensor]) -> Images:
    from torchvision.datasets import ImageFolder

    images = ImageFolder(str(folder), transform=transform)
    mixed = torch.utils.data.Subset(images, _source.mixed(len(images)))
    yield from torch.utils.data.DataLoader(mixed, batch_size=_source.BATCH, shuffle=False)
