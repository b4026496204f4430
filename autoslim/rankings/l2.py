"""L2 norm: the root mean square of the filters that write a channel (He et al. 2018, https://arxiv.org/abs/1808.06866, section 3.2, p = 2)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from autoslim.engine import Draft
from autoslim.rankings._norms import of_groups
from autoslim.structure import Group


class Member:
    """Looks at the weights alone; of several layers that write a channel, the mean of squares is taken before the root."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        found = of_groups(draft.model, groups, torch.square)
        return {name: None if score is None else score.sqrt() for name, score in found.items()}

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""
