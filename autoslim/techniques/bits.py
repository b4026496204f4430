"""Number formats: how wide a layer's weights are stored, and how wide it computes.

Values: 32; 8 (integer kernels: per-channel signed weights, calibrated unsigned activations, Jacob et al. 2018,
https://arxiv.org/abs/1712.05877); "w4a8" (the same with weights of four bits); 16, "bf16" (floats), "w16", "w8", "w4" (integers; all narrow in
the file, float kernels: smaller, not faster); "w16a16" (integers of 16 bits for weights and activations, for devices that have such kernels; ONNX
Runtime has none, rounds to them and computes in float). A mapping says how: ``{format: 8, ranges: percentile, rounding: gptq, equalise: never, per: tensor, zero: symmetric}``. The runtime makes
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
    by_weights = True
    values = (formats.FLOAT, 8)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution, linear or recurrent layer, and per embedding; transposed convolutions stay in float."""
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if treated(layer.kind)}

    def effective(self, unit: Unit, value: Any) -> Any:
        """The format's short form, None for float. Raises UserError for what is no format."""
        try:
            found = formats.parse(value)
        except ValueError as error:
            raise UserError(f"bits of {unit.name}: {error}") from None
        return None if found.name == formats.FLOAT else found.value

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        draft.bits.update(choices)


def treated(kind: str) -> bool:
    """Whether layers of a class, or of one derived from it that keeps its name in its own, have integer or narrow forms."""
    return kind in ("LSTM", "GRU", "RNN", "Embedding") or ("Conv" in kind or "Linear" in kind) and "Transpose" not in kind
