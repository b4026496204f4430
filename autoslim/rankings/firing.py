"""Firing: how often a channel is above zero where it is read, so that neurons that never fire go first (Hu et al. 2016, APoZ)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoslim.engine import Draft
from autoslim.importance import input_means
from autoslim.structure import Group


class Member:
    """1 - APoZ (https://arxiv.org/abs/1607.03250, eq. 1): the share of samples and positions at which the channel is positive, the mean over
    the layers that read it. A group whose readers' inputs cannot be told apart has no score."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        shares = input_means(draft.model, draft.samples, lambda x: (x > 0).double())
        return {name: share_of(shares, group) for name, group in groups.items()}

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""


def share_of(shares: Mapping[str, Tensor], group: Group) -> Tensor | None:
    """(size,) how often each channel of a group fires."""
    read = [member for member in group.members if member.axis == "in" and member.module in shares]
    read = [member for member in read if max(max(spots) for spots in member.positions) < len(shares[member.module])]
    if not read:
        return None
    return torch.stack([torch.stack([shares[one.module][list(spots)].mean() for spots in one.positions]) for one in read]).mean(0)
