"""Structured pruning: remove whole channels or neurons of a group of coupled layers.

Value: how many channels the group keeps (an integer), or, in a search space, the share it keeps (a float in (0, 1]), which
is rounded up so that every layer keeps a multiple of ``round_to``: kernels work in steps, and odd counts were measured slower than more channels.
Or a mapping of

- ``keep``: the same;
- ``criterion``: which channels stay, a file of rankings/ (energy, l1, l2, scale, taylor, fisher, firing, surgeon);
- ``scope``: "group", or "isomorphic" or "global", where ``keep`` is a share of the channels of all groups of that value that are alike, or of
  all of them, and the best stay wherever they are.
"""

import math
from collections.abc import Mapping
from typing import Any

from autoslim import ranking, surgery
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import HEADS, Structure


class Member:
    """Structured channels; see the module."""

    order = 30
    values = (1.0, 0.75, 0.5, 0.25)

    def __init__(self, round_to: int = 8, criterion: str = "energy", scope: str = "group") -> None:
        if not isinstance(round_to, int) or round_to < 1:
            raise UserError(f"channels: round_to is {round_to!r}, allowed: an integer from 1 (8 and 16 suit most kernels)")
        self.round_to, self.told = round_to, {"criterion": criterion, "scope": scope}
        ranking.refuse("channels", self.told)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per group, named after its root layer."""
        return {
            group.name: Unit(group.name, tuple(dict.fromkeys(group.producers)), {"size": group.size, "width": group.width})
            for group in structure.groups.values()
            if group.size > 1 and group.kind != HEADS
        }

    def effective(self, unit: Unit, value: Any) -> Any:
        """Number of channels kept, or a mapping where another ranking decides; None for all of them."""
        size, width = unit.facts["size"], unit.facts.get("width", 1)
        step = self.round_to // math.gcd(self.round_to, width)
        try:
            return ranking.effective(size, value, self.told, self.round_to if wide(self.told, value) else step)
        except ValueError:
            raise UserError(f"channels of {unit.name}: got {value!r}, allowed: {ranking.allowed(size, 'channels')}") from None

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Cut all groups at once and note what was kept. Raises Untreatable for a unit that the model has not."""
        chosen = ranking.choose(draft, choices, "channels")
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)


def wide(told: Mapping[str, Any], value: Any) -> bool:
    """Whether a value speaks of several groups together."""
    return {**told, **(value if isinstance(value, Mapping) else {})}["scope"] != "group"
