"""Student: a whole smaller network, of the teacher's own family or from a builder of the user's.

Value, on the unit "": {"width": w, "depth": d} keeps the share w of every group's channels and the share d of the removable
blocks, and starts from the teacher's kept weights, as in Minitron (Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679);
{"builder": name} starts from what the task's ``students(teacher)`` builds under that name. Either learns from the teacher
in recovery (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
"""

import math
from collections.abc import Mapping
from typing import Any

from autoslim import surgery
from autoslim.blocks import Skip
from autoslim.engine import Draft
from autoslim.errors import Untreatable, UserError
from autoslim.importance import keep_best
from autoslim.interfaces import Unit
from autoslim.structure import HEADS, Structure

ALLOWED = '{"width": share, "depth": share} with shares in (0, 1], or {"builder": name}'


class Member:
    """Student networks; see the module."""

    order = 10
    values = (None, {"width": 0.5, "depth": 1.0}, {"width": 0.5, "depth": 0.5})

    def __init__(self, round_to: int = 8) -> None:
        self.round_to = round_to

    def units(self, structure: Structure) -> dict[str, Unit]:
        """The whole model is one unit, called ""."""
        return {"": Unit("", tuple(structure.layers))}

    def effective(self, unit: Unit, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping) or not (set(value) <= {"width", "depth"} or set(value) == {"builder"}):
            raise UserError(f"student: got {value!r}, allowed: {ALLOWED}")
        if "builder" in value:
            return {"builder": str(value["builder"])}
        width, depth = value.get("width", 1.0), value.get("depth", 1.0)
        if not all(isinstance(share, int | float) and 0 < share <= 1 for share in (width, depth)):
            raise UserError(f"student: got {value!r}, allowed: {ALLOWED}")
        return None if width == depth == 1 else {"width": float(width), "depth": float(depth)}

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        for value in choices.values():
            if "builder" in value:
                draft.rebuild(value["builder"])
            else:
                self.shrink(draft, value["width"], value["depth"])

    def shrink(self, draft: Draft, width: float, depth: float) -> None:
        """Remove the last blocks of the list first, then the least important channels of every group."""
        blocks = list(draft.structure.blocks)
        for name in blocks[round(len(blocks) * depth) :]:
            draft.replace(name, Skip(draft.structure.blocks[name].as_tuple))
        chosen = []
        for group in draft.structure.groups.values():
            step = 1 if group.kind == HEADS else self.round_to // math.gcd(self.round_to, group.width)
            kept = min(group.size, -(-round(group.size * width, 6) // step) * step)
            if kept < group.size:
                chosen.append((group, keep_best(draft.model, draft.moments, group, int(kept))))
        if not chosen and depth == 1:
            raise Untreatable("student: no group of this network can be made narrower; give builders in the task's students()")
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)
        draft.restructure()
