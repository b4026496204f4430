"""``--model torchvision:NAME``: torchvision's constructors, weights and transforms.

Weights: ``weights=DEFAULT`` (torchvision's own names; the files come from its cache or the network) or a path to a state
dict; without it the network has random weights (seed 0), which are good for latency and size and never for accuracy. A deep network of
random weights gives every input the same class, since its batch norms' statistics (mean 0, variance 1) do not fit: ``weights=random:N``
estimates them on N batches of noise, so that agreement with the original tells something; of accuracy it tells nothing either.
"""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.tasks import _images, _source

ARGUMENTS = ("weights", "size")
#: seed of the noise that batch norms' statistics are estimated on; another than those of the splits
SEED = 4


def model(name: str, data: str, weights: str = "", size: str = "") -> nn.Module:
    """``torchvision:NAME`` with the asked weights. Raises UserError for a name that torchvision has not."""
    known = torchvision.models.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, 3)) or "one of torchvision.models.list_models()"
        raise UserError(f"--model: torchvision has no {name!r}; did you mean {near}?")
    batches = _estimated(weights)
    preset = None if _is_file(weights) else _named(name, weights)
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") and preset is None else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.get_model(name, weights=preset, **extra)
    if _is_file(weights):
        net.load_state_dict(_state(Path(weights)))
    if batches:
        estimate(net, _images.noise(torch.Generator().manual_seed(SEED), batches, (3, *[_side(name, weights, size)] * 2)))
    return net


def estimate(net: nn.Module, batches: Iterable[tuple[Tensor, Any]]) -> None:
    """Set the running statistics of the batch norms to the mean of those of the batches, the rest of the network in eval mode."""
    norms = [module for module in net.eval().modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    with torch.no_grad():
        for images, _ in batches:
            net(images)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    net.eval()


def notes(name: str, data: str, weights: str = "", size: str = "") -> list[str]:
    """What there is to know of the weights."""
    if batches := _estimated(weights):
        return [f"random weights, batch norms' statistics estimated on {_source.BATCH * batches} images of noise: agreement is no accuracy"]
    return [] if weights else ["random weights: agreement with the original is no accuracy"]


def example_input(name: str, data: str, weights: str = "", size: str = "") -> Tensor:
    """One image (1, 3, side, side) of the size that the weights were trained with (224 where none is known)."""
    side = _side(name, weights, size)
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def data(split: str, name: str, data: str, weights: str = "", size: str = "") -> _images.Images:
    """Batches of (images, labels)."""
    side = _side(name, weights, size)
    return _images.batches(split, data, (3, side, side), lambda: _transform(name, weights, side))


def _estimated(weights: str) -> int:
    """N of ``random:N``; 0 for other weights."""
    return _source.whole("--task-arg weights=random:N", weights.removeprefix("random:"), 1) if weights.startswith("random:") else 0


def _is_file(weights: str) -> bool:
    return bool(weights) and Path(weights).is_file()


def _named(name: str, weights: str) -> Any:
    """torchvision's weights of that name; None for no name. Raises UserError for another name."""
    if not weights or _estimated(weights):
        return None
    known = torchvision.models.get_model_weights(name).__members__
    if weights not in known:
        raise UserError(f"--task-arg weights: got {weights!r}, allowed: a file, random:N, or {', '.join(known) or 'none'}")
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
