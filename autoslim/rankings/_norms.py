"""What the rankings by size of weights share."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from autoslim.importance import axis_norms
from autoslim.structure import HEADS, Group


def written(model: nn.Module, group: Group, act: Callable[[Tensor], Tensor]) -> Tensor | None:
    """(size,) mean over the layers that write a group of ``act`` of their weights, summed over the weights that write a channel and divided
    by how many these are; None if no weight writes it."""
    modules = dict(model.named_modules())
    found = []
    for member in group.members:
        if member.reads or member.axis == HEADS or member.module not in modules:
            continue
        sums, counts = (axis_norms(modules[member.module], member.axis, each) for each in (act, torch.ones_like))
        if sums is not None and counts is not None:
            share = sums / counts.clamp_min(1)
            found.append(torch.stack([share[list(spots)].mean() for spots in member.positions]))
    return torch.stack(found).mean(0) if found else None


def of_groups(model: nn.Module, groups: Mapping[str, Group], act: Callable[[Tensor], Tensor]) -> dict[str, Tensor | None]:
    return {name: written(model, group, act) for name, group in groups.items()}
