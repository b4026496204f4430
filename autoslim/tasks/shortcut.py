"""The task behind ``--model torchvision:NAME --data imagefolder:PATH``: torchvision's constructors, weights and transforms.

Weights: ``--task-arg weights=DEFAULT`` (torchvision's own names; the files come from its cache or the network) or a path
to a state dict; without it the network has random weights, which is good for latency and size and never for accuracy. The
folder holds ``train``, ``val`` and ``test``, each in ImageFolder form; a missing ``test`` makes the report say so.
``--data random:CLASSES`` gives unlabelled noise, for networks whose speed alone is asked.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.errors import UserError

METRIC_NAME = "top-1 accuracy"
BATCH, RANDOM_SAMPLES = 16, 64


def model(model: str, weights: str = "") -> nn.Module:
    """``torchvision:NAME`` with the asked weights."""
    return _network(model, weights).eval()


def example_input(model: str, weights: str = "", size: str = "") -> Tensor:
    """One image of the size that the weights were trained with (224 where none is known)."""
    side = _side(model, weights, size)
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def data(split: str, data: str, model: str, weights: str = "", size: str = "") -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches of (images, labels)."""
    kind, _, where = data.partition(":")
    if kind == "random":
        return _noise(split, _side(model, weights, size))
    if kind != "imagefolder" or not where:
        raise UserError(f"--data: got {data!r}, allowed: imagefolder:PATH (with train, val, test below it) or random:CLASSES")
    folder = Path(where) / split
    if not folder.is_dir():
        raise UserError(f"--data: no folder {str(folder)!r}; expected train, val and test in ImageFolder form below {where!r}")
    return _images(folder, _transform(model, weights, _side(model, weights, size)))


def _noise(split: str, side: int) -> Iterator[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed({"train": 1, "val": 2, "test": 3}[split])
    for _ in range(RANDOM_SAMPLES // BATCH):
        yield torch.randn(BATCH, 3, side, side, generator=generator), None


def _images(folder: Path, transform: object) -> Iterator[tuple[Tensor, Tensor]]:
    from torchvision.datasets import ImageFolder

    found = ImageFolder(str(folder), transform=transform)
    yield from torch.utils.data.DataLoader(found, batch_size=BATCH, shuffle=False)


def _network(model: str, weights: str) -> nn.Module:
    import torchvision

    kind, _, name = model.partition(":")
    if kind != "torchvision" or not name:
        raise UserError(
            f"--model: got {model!r}, allowed: torchvision:NAME such as torchvision:resnet18; for anything else write a task (docs/task.md)"
        )
    known = torchvision.models.list_models()
    if name not in known:
        import difflib

        raise UserError(
            f"--model: torchvision has no {name!r}; did you mean {', '.join(difflib.get_close_matches(name, known, 3)) or 'one of torchvision.models.list_models()'}?"
        )
    path = Path(weights) if weights else None
    named = weights if weights and not (path and path.is_file()) else None
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") and not named else {}
    net = torchvision.models.get_model(name, weights=named, **extra)
    if path is not None and path.is_file():
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            net.load_state_dict(load_file(path))
        else:
            net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net


def _preset(model: str, weights: str) -> object | None:
    import torchvision

    if not weights or Path(weights).is_file():
        return None
    enum = torchvision.models.get_model_weights(model.partition(":")[2])
    return enum[weights].transforms()


def _side(model: str, weights: str, size: str) -> int:
    preset = _preset(model, weights)
    return int(size) if size else preset.crop_size[0] if preset is not None else 224


def _transform(model: str, weights: str, side: int) -> object:
    from torchvision import transforms

    preset = _preset(model, weights)
    return preset or transforms.Compose(
        [
            transforms.Resize(side),
            transforms.CenterCrop(side),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
