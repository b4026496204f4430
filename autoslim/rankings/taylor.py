"""Taylor: the mean size of the first-order change of the loss when a channel goes (Molchanov et al. 2017, eq. 8). Needs no labels."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from autoslim.engine import Draft
from autoslim.rankings._gates import derivatives
from autoslim.structure import Group


class Member:
    """E |dL/dg_c|, g_c being a gate on the channel (https://arxiv.org/abs/1611.06440), over single samples; _gates.py says which loss."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        return {name: slopes.abs().mean(0) for name, slopes in derivatives(draft.model, draft.samples, groups).items()}

    def settle(self, draft: Draft, chosen: Any) -> None:
        """Nothing: weights that stay keep their values."""
