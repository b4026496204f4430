"""Images drawn as they are asked for: a pass over ``val`` or ``test`` takes 4 GB, a batch 12.6 MB."""

import torch
from torch import nn

BATCHES = 320


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )


def example_input():
    return torch.zeros(1, 3, 128, 128)


def data(split):
    for number in range(4 if split == "train" else BATCHES):
        images = torch.full((64, 3, 128, 128), number / BATCHES)
        images[::2, 0] += 1.0
        yield images, (torch.arange(64) + number) % 2
