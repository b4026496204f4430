"""Attention heads: remove whole heads, with their rows of query, key and value and their columns of the projection after them.

Value: how many heads stay (an integer), or, in a search space, the share that stays (a float in (0, 1]), rounded up to a whole
head (Michel et al. 2019, https://arxiv.org/abs/1905.10650). Which heads stay is decided by what the projection after them reads
from each (importance.py).
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
    """Attention heads; see the module."""

    order = 25
    values = (1.0, 0.75, 0.5, 0.25)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per attention whose heads can be removed."""
        return {
            group.name: Unit(group.name, tuple(dict.fromkeys(group.producers)), {"size": group.size})
            for group in structure.groups.values()
            if group.kind == HEADS and group.size > 1
        }

    def effective(self, unit: Unit, value: Any) -> int | None:
        """Number of heads kept, or None for all of them."""
        size = unit.facts["size"]
        count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not count and not (isinstance(value, float) and 0 < value <= 1):
            raise UserError(f"heads of {unit.name}: got {value!r}, allowed: a share in (0.0, 1.0] or a whole number of heads up to {size}")
        kept = min(size, value if count else math.ceil(round(size * value, 6)))
        return None if kept == size else int(kept)

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        groups = draft.structure.groups
        chosen = [(groups[name], keep_best(draft.model, draft.moments, groups[name], kept)) for name, kept in choices.items()]
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)
