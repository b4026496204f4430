"""Images for a Hugging Face network: prepared by its own image processor; or noise."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from autoslim.errors import UserError
from autoslim.tasks import _huggingface, _images


def example(name: str, length: str) -> dict[str, Tensor]:
    """One image of noise (1, channels, height, width) as the processor makes them."""
    return {"pixel_values": torch.randn(1, *_shape(name, length), generator=torch.Generator().manual_seed(0))}


def batches(split: str, name: str, data: str, length: str) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
    """Batches of (pixels, labels (batch,) or None)."""
    found = _images.batches(split, data, _shape(name, length), lambda: _processor(name))
    return (({"pixel_values": pixels}, labels) for pixels, labels in found)


def _processor(name: str) -> Any:
    """From a PIL image to (channels, height, width)."""
    found = _huggingface.loaded("AutoImageProcessor", name)
    return lambda image: found(image, return_tensors="pt")["pixel_values"][0]


def _shape(name: str, length: str) -> tuple[int, int, int]:
    """Channels, height, width of what the processor gives; of the config where there is no processor, 224 at last."""
    from PIL import Image

    if length:
        raise UserError("--task-arg: 'length' is no argument of a network that takes images")
    told = _huggingface.config(name)
    side = getattr(told, "image_size", 224)
    height, width = side if isinstance(side, list | tuple) else (side, side)
    try:
        prepare = _processor(name)
    except UserError:  # a folder without preprocessor_config.json
        return getattr(told, "num_channels", 3), height, width
    return tuple(prepare(Image.new("RGB", (2 * width, 2 * height))).shape)
