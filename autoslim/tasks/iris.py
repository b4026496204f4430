"""A small fully connected network on Fisher's iris measurements: the least task there is, trained anew in a second.

150 flowers, four lengths each, three species; the data come with scikit-learn (public domain).
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

METRIC_NAME = "top-1 accuracy"
SPLITS = {"train": slice(0, 75), "val": slice(75, 112), "test": slice(112, 150)}
STEPS = 300


@functools.cache
def arrays() -> tuple[Tensor, Tensor]:
    """(measurements of mean 0 and deviation 1 each, (150, 4); species, (150,)), in a fixed random order."""
    from sklearn.datasets import load_iris

    bunch = load_iris()
    inputs, targets = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    return ((inputs - inputs.mean(0)) / inputs.std(0))[order], targets[order]


def initial() -> nn.Module:
    """The network before its training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


@functools.cache
def model() -> nn.Module:
    """4 -> 32 -> 32 -> 3, trained on the train split with a fixed seed."""
    net = initial()
    inputs, targets = (part[SPLITS["train"]] for part in arrays())
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=1e-3)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return net.eval()


def example_input() -> Tensor:
    return torch.zeros(1, 4)


def data(split: str) -> list[tuple[Tensor, Tensor]]:
    inputs, targets = (part[SPLITS[split]] for part in arrays())
    return [(inputs[start : start + 32], targets[start : start + 32]) for start in range(0, len(inputs), 32)]
