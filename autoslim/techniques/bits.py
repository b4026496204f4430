"""Number formats: how wide a layer's weights are stored, and how wide it computes.

Values: 32; 8 (integer kernels: per-channel signed weights, calibrated unsigned activations, Jacob et al. 2018,
https://arxiv.org/abs/1712.05877); "w4a8" (the same with weights of four bits); 16, "w8", "w4" (narrow in the file, float kernels:
smaller, not faster). A mapping says how: ``{format: 8, ranges: percentile, rounding: gptq, equalise: never}``. The runtime makes
them real when it writes the file; a runtime offers only those that it has.
"""

from collections.abc import Mapping
from typing import Any

from autoslim import formats
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure


class Member:
    """Bit-width of weights and activations; see the module."""

    order = 60
    values = (formats.FLOAT, 8)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution, linear or recurrent layer, and per embedding; transposed convolutions stay in float."""
        kinds = ("Conv1d", "Conv2d", "Conv3d", "Linear", "LSTM", "GRU", "RNN", "Embedding")
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if layer.kind in kinds}

    def effective(self, unit: Unit, value: Any) -> Any:
        try:
            found = formats.parse(value)
        except ValueError as error:
            raise UserError(f"bits of {unit.name}: {error}") from None
        return None if found.name == formats.FLOAT else found.value

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        draft.bits.update(choices)
