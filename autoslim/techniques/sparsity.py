"""Unstructured sparsity: set the smallest weights of a layer to zero.

Value: the share of a layer's weights that become zero, in [0, 1). Magnitude criterion (Han et al. 2015,
https://arxiv.org/abs/1506.02626). It makes a file neither smaller nor faster by itself in the runtimes here, which is why the
spaces for latency or size do not offer it; parameters stay counted, zeros included.
"""

from collections.abc import Mapping
from typing import Any

import torch

from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure


class Member:
    """Magnitude sparsity; see the module."""

    order = 50
    values = (0.0, 0.5, 0.75, 0.9)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution or linear layer."""
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if "Conv" in layer.kind or "Linear" in layer.kind}

    def effective(self, unit: Unit, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise UserError(f"sparsity of {unit.name}: got {value!r}, allowed: a share of zeros from 0 up to below 1")
        return float(value) or None

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        for name, share in choices.items():
            for full_name, layer in draft.parts(name):
                count = round(layer.weight.numel() * share)
                order = layer.weight.detach().abs().flatten().argsort()
                mask = torch.ones(layer.weight.numel(), dtype=layer.weight.dtype)
                mask[order[:count]] = 0
                draft.masks[full_name] = mask.view_as(layer.weight)
                layer.weight.data.mul_(draft.masks[full_name])
