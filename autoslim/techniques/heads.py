"""Attention heads: remove whole heads, with their rows of query, key and value and their columns of the projection after them.

Value: how many heads stay (an integer), or, in a search space, the share that stays (a float in (0, 1]), rounded up to a whole
head (Michel et al. 2019, https://arxiv.org/abs/1905.10650), or a mapping of ``keep``, ``criterion`` and ``scope`` as of channels. Which heads stay
is decided by what the projection after them reads from each, or by another file of rankings/.
"""

from collections.abc import Mapping
from typing import Any

from autoslim import ranking, surgery
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import HEADS, Structure


class Member:
    """Attention heads; see the module."""

    order = 25
    values = (1.0, 0.75, 0.5, 0.25)

    def __init__(self, criterion: str = "energy", scope: str = "group") -> None:
        self.told = {"criterion": criterion, "scope": scope}
        ranking.refuse("heads", self.told)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per attention whose heads can be removed."""
        return {
            group.name: Unit(group.name, tuple(dict.fromkeys(group.producers)), {"size": group.size})
            for group in structure.groups.values()
            if group.kind == HEADS and group.size > 1
        }

    def effective(self, unit: Unit, value: Any) -> Any:
        """Number of heads kept, or a mapping where another ranking decides; None for all of them."""
        try:
            return ranking.effective(unit.facts["size"], value, self.told, 1)
        except ValueError:
            told = ranking.allowed(unit.facts["size"], "heads")
            raise UserError(f"heads of {unit.name}: got {value!r}, allowed: {told}") from None

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Cut all groups of heads at once and note what was kept. Raises Untreatable for a unit that the model has not."""
        chosen = ranking.choose(draft, choices, "heads")
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)
