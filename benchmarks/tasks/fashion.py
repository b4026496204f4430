"""Fashion-MNIST and a residual network of 174,970 parameters, trained once by ``python benchmarks/fashion.py train``.

The data (MIT licence) are those of the Debian package dataset-fashion-mnist, or of the folder FASHION_MNIST. The weights are read from
``--task-arg weights=FILE``, by default from autoslim/fashion.safetensors in the user's cache.
"""

import functools
import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.narrow import narrowed
from autoslim.pool import viewed
from autoslim.tasks.digits.task import DigitsNet

METRIC_NAME = "top-1 accuracy"
LICENCE = "the network is trained by this benchmark; the images are those of Fashion-MNIST (MIT)"
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
WIDTHS = (16, 32, 64)
#: the last images of the training file are for validation
HELD = 5000
EPOCHS, BATCH, RATE = 10, 128, 0.2


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoslim" / "fashion.safetensors"


def model(weights: str = "") -> nn.Module:
    """The trained network. Raises UserError before it was trained."""
    from safetensors.torch import load_file

    path = Path(weights) if weights else cache()
    if not path.is_file():
        raise UserError(f"--task-arg weights: got {str(path)!r}, allowed: a file that `python benchmarks/fashion.py train` wrote")
    net = DigitsNet(WIDTHS)
    net.load_state_dict(load_file(path))
    return net


def example_input() -> Tensor:
    """One image, (1, 1, 28, 28)."""
    return arrays("t10k")[0][:1]


def data(split: str):
    """Batches of (images (n, 1, 28, 28), labels (n,)): 55,000 to learn from, 5,000 for validation, 10,000 for the test."""
    images, labels = arrays("t10k" if split == "test" else "train")
    start, stop = {"train": (0, -HELD), "val": (-HELD, None), "test": (0, None)}[split]
    images, labels = images[start:stop], labels[start:stop]
    return [(images[at : at + 250], labels[at : at + 250]) for at in range(0, len(images), 250)]


@functools.cache
def arrays(stem: str) -> tuple[Tensor, Tensor]:
    """(images of mean 0 and deviation 1 over the training file, labels) of "train" or "t10k"."""
    folder = Path(os.environ.get("FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))

    def read(name: str, offset: int) -> np.ndarray:
        path = folder / f"{stem}-{name}-ubyte.gz"
        if not path.is_file():
            raise UserError(
                f"FASHION_MNIST: no file {str(path)!r}; apt-get install dataset-fashion-mnist, or name a folder with its four files"
            )
        return np.frombuffer(gzip.open(path).read(), np.uint8, offset=offset)

    images = torch.from_numpy(read("images-idx3", 16).reshape(-1, 1, 28, 28).astype(np.float32))
    return images.div_(255).sub_(0.2860).div_(0.3530), torch.from_numpy(read("labels-idx1", 8).astype(np.int64))


def train(path: Path, epochs: int = EPOCHS, say=print) -> float:
    """Train the network into ``path``; returns the share of test images it has right. SGD with a one-cycle rate, shifts and mirrors, labels
    smoothed by 0.05. Each epoch is kept beside ``path``, so that the same call goes on after an interruption."""
    from safetensors.torch import save_file

    images, labels = (part[:-HELD] for part in arrays("train"))
    torch.manual_seed(0)
    net = DigitsNet(WIDTHS).to(memory_format=torch.channels_last)
    steps = len(labels) // BATCH
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * steps + 1, pct_start=0.25)
    parts, begun, kept = {"net": net, "optimizer": optimizer, "schedule": schedule}, 0, path.with_suffix(".training")
    path.parent.mkdir(parents=True, exist_ok=True)
    if kept.is_file():
        state = torch.load(kept, weights_only=True)
        begun = state.pop("epoch")
        for name, part in parts.items():
            part.load_state_dict(state[name])
    for epoch in range(begun, epochs):
        generator = torch.Generator().manual_seed(epoch)
        net.train()
        for chosen in torch.randperm(len(labels), generator=generator).split(BATCH)[:steps]:
            optimizer.zero_grad()
            with narrowed(net):
                scores = net(viewed(images[chosen], "mirror", generator).contiguous(memory_format=torch.channels_last))
            nn.functional.cross_entropy(scores.float(), labels[chosen], label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
        torch.save({"epoch": epoch + 1, **{name: part.state_dict() for name, part in parts.items()}}, kept)
        say(f"epoch {epoch + 1} of {epochs}: validation {accuracy(net, 'val'):.4f}")
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, path)
    kept.unlink(missing_ok=True)
    return accuracy(net, "test")


@torch.no_grad()
def accuracy(net: nn.Module, split: str) -> float:
    net.eval()
    right = [(net(images).argmax(1) == labels).sum().item() for images, labels in data(split)]
    return sum(right) / sum(len(labels) for _, labels in data(split))
