"""``--model torchvision:NAME``: torchvision's constructors, weights and transforms.

Weights: ``weights=DEFAULT`` (torchvision's own names; the files come from its cache or the network) or a path to a state
dict; without it the network has random weights (seed 0), which are good for latency and size and never for accuracy.
"""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.tasks import _images, _source

ARGUMENTS = ("weights", "size")


def model(name: str, data: str, weights: str = "", size: str = "") -> nn.Module:
    """``torchvision:NAME`` with the asked weights. Raises UserError for a name that torchvision has not."""
    known = torchvision.models.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "one of torchvision.models.list_models()"
        raise UserError(f"--model: torchvision has no {name!r}; did you mean {near}?")
    preset = None if _is_file(weights) else _named(name, weights)
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") and preset is None else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=preset, **extra)
    if _is_file(weights):
        net.load_state_dict(_state(Path(weights)))
    return net


def example_input(name: str, data: str, weights: str = "", size: str = "") -> Tensor:
    """One image (1, 3, side, side) of the size that the weights were trained with (224 where none is known)."""
    side = _side(name, weights, size)
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def data(split: str, name: str, data: str, weights: str = "", size: str = "") -> _images.Images:
    """Batches of (images, labels)."""
    side = _side(name, weights, size)
    return _images.batches(split, data, (3, side, side), lambda: _transform(name, weights, side))


def _is_file(weights: str) -> bool:
    return bool(weights) and Path(weights).is_file()


def _named(name: str, weights: str) -> Any:
    """torchvision's weights of that name; None for no name. Raises UserError for another name."""
    if not weights:
        return None
    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise UserError(f"--task-arg weights: got {weights!r}, allowed: a file, or {', '.join(known) or 'none'}")
    return known[weights]


def _state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _preset(name: str, weights: str) -> Any:
    """Maker of the transforms that the named weights were trained with; None without a name."""
    found = None if _is_file(weights) else _named(name, weights)
    return None if found is None else found.transforms


def _side(name: str, weights: str, size: str) -> int:
    if size:
        return _source.whole("--task-arg size", size, 1)
    preset = _preset(name, weights)
    return 224 if preset is None else preset().crop_size[0]


def _transform(name: str, weights: str, side: int) -> Callable[[Any], Tensor]:
    """From a PIL image to (3, side, side): the weights' own steps, their sizes in proportion; else ImageNet's usual ones."""
    from torchvision import transforms

    preset = _preset(name, weights)
    if preset is not None:
        usual = preset()
        return preset(crop_size=side, resize_size=round(usual.resize_size[0] * side / usual.crop_size[0]))
    return transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
