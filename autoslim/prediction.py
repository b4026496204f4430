"""What a draft will need once it is shipped, told before any file exists: parameters, multiply-accumulates, bytes of its weights."""

from dataclasses import dataclass

import numpy as np
import torch

from autoslim import onnx_constants, packed
from autoslim.engine import Draft
from autoslim.fusing import fused
from autoslim.layers import trace


@dataclass(frozen=True)
class Prediction:
    """``params``: parameters once batch norms are folded; ``macs``: of one sample; ``payload_bytes``: of the weights in a packed file
    with symbols of fixed width, the sum of the formulas of coders/. Weights that run as integers count one byte each."""

    params: int
    macs: int
    payload_bytes: int


def predict(draft: Draft) -> Prediction:
    """Computed on the draft's PyTorch model; tests/contracts/test_prediction.py counts the same in the shipped file."""
    with torch.no_grad():
        model = fused(draft.model, draft.example)
        layers, _ = trace(model, draft.example)
    integers = {f"{full}.weight" for layer, bits in draft.bits.items() if bits == 8 for full, _ in draft.parts(layer)}
    params, payload, seen = 0, 0, set()
    for name, parameter in model.named_parameters():
        params += parameter.numel()
        values = parameter.detach().contiguous().numpy()
        if values.nbytes < onnx_constants.LEAST or (key := (values.shape, values.tobytes())) in seen:
            continue
        seen.add(key)
        payload += values.size if name in integers else fixed_bytes(values)
    return Prediction(params, sum(layer.macs for layer in layers.values()), payload)


def fixed_bytes(values: np.ndarray) -> int:
    """Bytes of one weight by the coder that needs least, symbols at fixed widths."""
    table = onnx_constants.table(values, list(values.shape))
    parts = min((found for *_, found in packed.candidates(table, values.ndim == 2)), key=lambda found: packed.cost(found, entropy=False))
    return parts.fixed_bytes
