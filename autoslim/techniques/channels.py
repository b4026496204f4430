"""Structured pruning: remove whole channels or neurons of a group of coupled layers.

Value: how many channels the group keeps (an integer), or, in a search space, the share it keeps (a float in (0, 1]), which
is rounded up so that every layer keeps a multiple of ``round_to``: kernels work in steps, and odd counts were measured slower than more channels.
Which channels stay is decided by their importance (importance.py).
"""

import math
from collections.abc import Mapping
from typing import Any

from autoslim import surgery
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.importance import keep_best
from autoslim.interfaces import Unit
from autoslim.structure import HEADS, Structure


class Member:
    """Structured channels; see the module."""

    order = 30
    values = (1.0, 0.75, 0.5, 0.25)

    def __init__(self, round_to: int = 8) -> None:
        if not isinstance(round_to, int) or round_to < 1:
            raise UserError(f"channels: round_to is {round_to!r}, allowed: an integer from 1 (8 and 16 suit most kernels)")
        self.round_to = round_to

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per group, named after its root layer."""
        return {
            group.name: Unit(group.name, tuple(dict.fromkeys(group.producers)), {"size": group.size, "width": group.width})
            for group in structure.groups.values()
            if group.size > 1 and group.kind != HEADS
        }

    def effective(self, unit: Unit, value: Any) -> int | None:
        """Number of channels kept, or None for all of them."""
        size = unit.facts["size"]
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not count and not (isinstance(value, float) and 0 < value <= 1):
            raise UserError(
                f"channels of {unit.name}: got {value!r}, allowed: a share in (0.0, 1.0] or a whole number of channels up to {size}"
            )
        if count:
            kept = value
        else:
            step = self.round_to // math.gcd(self.round_to, unit.facts.get("width", 1))
            kept = -(-round(size * float(value), 6) // step) * step
        kept = int(max(1, min(size, kept)))
        return None if kept == size else kept

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        groups = draft.structure.groups
        chosen = [(groups[name], keep_best(draft.model, draft.moments, groups[name], kept)) for name, kept in choices.items()]
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)
