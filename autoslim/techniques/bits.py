"""Bit-width: run a layer with 8-bit integer weights and activations instead of 32-bit floats.

Value: 32 or 8. The runtime makes it real when it writes the file: per-channel signed weights and calibrated unsigned
activations around integer kernels (Jacob et al. 2018, https://arxiv.org/abs/1712.05877). A runtime without such kernels
does not offer 8.
"""

from collections.abc import Mapping
from typing import Any

from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure

FLOAT = 32


class Member:
    """Bit-width of weights and activations; see the module."""

    order = 60
    values = (FLOAT, 8)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution or linear layer; transposed convolutions and recurrent layers stay in float."""
        kinds = ("Conv1d", "Conv2d", "Conv3d", "Linear")
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if layer.kind in kinds}

    def effective(self, unit: Unit, value: Any) -> int | None:
        if value not in (FLOAT, 8) or isinstance(value, bool):
            raise UserError(f"bits of {unit.name}: got {value!r}, allowed: 32, 8")
        return None if value == FLOAT else int(value)

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        draft.bits.update(choices)
