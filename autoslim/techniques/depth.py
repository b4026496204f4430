"""Depth pruning: remove residual blocks whole, leaving their shortcut.

Value: true removes the block, false keeps it. Only blocks found to be the identity at zero weights are offered, as in
stochastic depth (Huang et al. 2016, https://arxiv.org/abs/1603.09382), where a dropped block is its shortcut.
"""

from collections.abc import Mapping
from typing import Any

from autoslim.blocks import Skip
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure


class Member:
    """Removal of residual blocks; see the module."""

    order = 20
    values = (False, True)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per removable block."""
        return {name: Unit(name, tuple(layer for layer in structure.layers if layer.startswith(name + "."))) for name in structure.blocks}

    def effective(self, unit: Unit, value: Any) -> bool | None:
        """True, or None for a block that stays. Raises UserError for anything but a bool."""
        if not isinstance(value, bool):
            raise UserError(f"depth of {unit.name}: got {value!r}, allowed: true (remove the block) or false")
        return True if value else None

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        for name in choices:
            draft.replace(name, Skip(draft.structure.blocks[name].as_tuple))
