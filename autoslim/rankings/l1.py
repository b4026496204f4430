"""L1 norm: the mean absolute weight of the filters that write a channel (Li et al. 2017, https://arxiv.org/abs/1608.08710, section 3.1)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoslim.engine import Draft
from autoslim.rankings._norms import of_groups
from autoslim.structure import Group


class Member:
    """Sum of |w| of a filter over its number of weights, so that layers of other sizes compare; looks at the weights alone."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        return of_groups(draft.model, groups, torch.abs)

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""
