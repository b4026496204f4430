"""Batch-norm scale: |gamma| of a channel's batch norms (Liu et al. 2017, Network Slimming, https://arxiv.org/abs/1708.06519, section 3)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.engine import Draft
from autoslim.structure import Group

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Member:
    """The mean over the group's batch norms; a group without one cannot be told. Means most after training with an L1 penalty on gamma."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        modules = dict(draft.model.named_modules())
        return {name: scale_of(modules, group) for name, group in groups.items()}

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""


def scale_of(modules: Mapping[str, nn.Module], group: Group) -> Tensor | None:
    """(size,) mean |gamma| of each channel; None where no batch norm has scales."""
    found = []
    for member in group.members:
        norm = modules.get(member.module)
        if isinstance(norm, NORMS) and norm.weight is not None and not member.reads:
            sizes = norm.weight.detach().double().abs()
            found.append(torch.stack([sizes[list(spots)].mean() for spots in member.positions]))
    return torch.stack(found).mean(0) if found else None
