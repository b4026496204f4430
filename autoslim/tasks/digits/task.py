"""A residual network on scikit-learn's handwritten digits, resized to 32x32: the task that runs with no flag at all.

It is also the shortest complete example of the task contract (docs/task.md). The weights beside this file were made by
``train.py``; the data (1,797 scanned 8x8 digits, BSD licence) come with scikit-learn, so nothing is downloaded.
"""

import functools
import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

METRIC_NAME = "top-1 accuracy"
LICENCE = "the network is part of AutoSlim; the digits are those of scikit-learn (BSD 3-Clause)"
WEIGHTS = Path(__file__).with_name("weights.safetensors")
WIDTHS = (32, 64, 96)
BLOCKS_PER_STAGE = 2
SHIFTS = ("rotated",)
SPLITS = {"train": (0, 797), "val": (797, 1197), "test": (1197, 1797)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al. 2016, https://arxiv.org/abs/1512.03385, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        plain = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if plain else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, h, w) -> (batch, outputs, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DigitsNet(nn.Module):
    """Stem, three stages of residual blocks, global average, linear head."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, blocks: int = BLOCKS_PER_STAGE, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        stages, before = [], widths[0]
        for index, width in enumerate(widths):
            first = BasicBlock(before, width, 1 if index == 0 else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(blocks - 1))))
            before = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 1, 32, 32) in [-1, 1] -> logits (batch, 10)."""
        x = self.stages(self.stem(x))
        return self.head(x.mean(dim=(2, 3)))


def model() -> nn.Module:
    """The trained network."""
    from safetensors.torch import load_file

    net = DigitsNet()
    net.load_state_dict(load_file(WEIGHTS))
    return net


def initial() -> nn.Module:
    """The network before its training, as train.py begins."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DigitsNet()


def example_input() -> Tensor:
    """One image, (1, 1, 32, 32)."""
    return arrays("val")[0][:1]


def data(split: str):
    """Batches of (images (n, 1, 32, 32), labels (n,)); the splits are disjoint and fixed. "shift:rotated" is the test split, turned."""
    images, labels = arrays("test" if split == "shift:rotated" else split)
    if split == "shift:rotated":
        images = turned(images)
    for start in range(0, len(images), 64):
        yield images[start : start + 64], labels[start : start + 64]


def turned(images: Tensor, degrees: float = 20.0) -> Tensor:
    """Images rotated about their middle, (n, 1, h, w) -> the same shape; edges are repeated."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=images.dtype).repeat(len(images), 1, 1)
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), padding_mode="border", align_corners=False)


def arrays(split: str) -> tuple[Tensor, Tensor]:
    """All images and labels of one split; the order is a fixed permutation, so every split has every writer."""
    table = digits()
    order = np.random.default_rng(0).permutation(len(table))
    start, stop = SPLITS[split]
    chosen = torch.from_numpy(table[order[start:stop]])
    small = chosen[:, :64].reshape(-1, 1, 8, 8) / 8.0 - 1.0
    images = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    return images, chosen[:, 64].long()


@functools.cache
def digits() -> np.ndarray:
    """(1797, 65) float32: 64 grey values from 0 to 16 and the label, read from scikit-learn's own file. What
    ``sklearn.datasets.load_digits`` returns, without the second and the 100 MB that importing scikit-learn costs."""
    spec = importlib.util.find_spec("sklearn")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path, "rt") as file:
        return np.loadtxt(file, delimiter=",", dtype=np.float32)
