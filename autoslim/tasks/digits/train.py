"""Train the embedded digits network and write ``weights.safetensors``.

Run: ``python -m autoslim.tasks.digits.train`` (about ten minutes on two cores). Only the train split is used; the number
of epochs was fixed beforehand, so neither validation nor test labels took part in any choice.
"""

import math
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from autoslim.tasks.digits import task

EPOCHS, BATCH, PEAK_RATE = 30, 32, 3e-3


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small random rotations, scales and shifts; (n, 1, 32, 32) -> the same shape."""
    n = len(images)
    angle = (torch.rand(n, generator=generator) - 0.5) * 0.5
    scale = 1 + (torch.rand(n, generator=generator) - 0.5) * 0.3
    shift = (torch.rand(n, 2, generator=generator) - 0.5) * 0.25
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def train(epochs: int = EPOCHS) -> torch.nn.Module:
    """The trained network, in eval mode."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    net = task.initial()
    images, labels = task.arrays("train")
    steps = epochs * math.ceil(len(images) / BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for epoch in range(epochs):
        net.train()
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images), BATCH):
            chosen = order[start : start + BATCH]
            loss = F.cross_entropy(net(augment(images[chosen], generator)), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}/{epochs} loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return net.eval()


def main() -> None:
    """Train, write the weights and print the accuracy on each split."""
    from safetensors.torch import save_file

    net = train()
    save_file({name: value.contiguous() for name, value in net.state_dict().items()}, task.WEIGHTS)
    for split in task.SPLITS:
        images, labels = task.arrays(split)
        with torch.no_grad():
            correct = torch.cat([net(part) for part in images.split(100)]).argmax(1) == labels
        print(f"{split}: {correct.float().mean():.4f} of {len(labels)}")


if __name__ == "__main__":
    main()
