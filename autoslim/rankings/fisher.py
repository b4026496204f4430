"""Fisher: the second-order change of the loss when a channel goes, half the Fisher information of its gate (Theis et al. 2018, eq. 8)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autoslim.engine import Draft
from autoslim.rankings._gates import derivatives
from autoslim.structure import Group


class Member:
    """E[(dL/dg_c)^2] / 2, g_c being a gate on the channel (https://arxiv.org/abs/1801.05787), over single samples; needs no labels."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        return {name: slopes.square().mean(0) / 2 for name, slopes in derivatives(draft.model, draft.samples, groups).items()}

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""
