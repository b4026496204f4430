"""Energy: what a channel's readers make of it, sum of ||W[:, c]||^2 E[x_c^2] (the structured form of Wanda)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autoslim.engine import Draft
from autoslim.importance import importance
from autoslim.structure import Group


class Member:
    """The default; see importance.py (Sun et al. 2024, https://arxiv.org/abs/2306.11695, eq. 1). Needs samples, else norms decide."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        return {name: importance(draft.model, draft.moments, group) for name, group in groups.items()}

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""
