"""What a draft will need once it is shipped, told before any file exists: parameters, multiply-accumulates, bytes of its weights."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoslim import onnx_constants, packed
from autoslim.engine import Draft
from autoslim.formats import FEW_ROWS, GRU_FROM, parse, table_bytes, weight_bytes
from autoslim.fusing import fused
from autoslim.hooks import watched
from autoslim.inputs import Inputs
from autoslim.layers import trace
from autoslim.structure import Layer


@dataclass(frozen=True)
class Prediction:
    """``params``: parameters once batch norms are folded; ``macs``: of one sample; ``payload_bytes``: of the weights: those of layers with
    bits with their steps as they lie in the ONNX file, all others in a packed file with symbols of fixed width, the sum of the formulas of
    coders/. A layer that calibration finds unfit for integers is stored as if it were fit."""

    params: int
    macs: int
    payload_bytes: int


def predict(draft: Draft) -> Prediction:
    """Computed on the draft's PyTorch model; tests/contracts/test_prediction.py counts the same in the shipped file."""
    with torch.no_grad():
        model = fused(draft.model, draft.example)
        layers, _ = trace(model, draft.example)
    narrow = narrow_bytes(draft, model)
    params, payload, seen = 0, 0, set()
    for name, parameter in model.named_parameters():
        params += parameter.numel()
        values = parameter.detach().contiguous().numpy()
        if name not in narrow and values.nbytes < onnx_constants.LEAST or (key := (values.shape, values.tobytes())) in seen:
            continue
        seen.add(key)
        payload += narrow[name] if name in narrow else fixed_bytes(values)
    return Prediction(params, sum(layer.macs for layer in layers.values()), payload + again_bytes(draft, model, layers))


def again_bytes(draft: Draft, model: nn.Module, layers: Mapping[str, Layer]) -> int:
    """Bytes of the biases of integer layers that run several times: their steps are those of what is read, so each run has its own. A linear layer
    whose range is found at every run adds one bias as floats."""
    told = [(full, parse(value)) for layer, value in draft.bits.items() for full in places(draft, layer)]
    biases = {full: getattr(model.get_submodule(full), "bias", None) for full, form in told if form.integer and full in layers}
    floats = {full for full, form in told if form.dynamic and isinstance(model.get_submodule(full), nn.Linear)}
    own = {full: bias for full, bias in biases.items() if isinstance(bias, Tensor) and full not in floats}
    return sum(4 * bias.numel() * (layers[full].calls - 1) for full, bias in own.items())


def narrow_bytes(draft: Draft, model: nn.Module) -> dict[str, int]:
    """{parameter: bytes in the file} of the weights that have a format of their own. ``model``: the draft's, or the same with folded norms."""
    told = {full: parse(value) for layer, value in draft.bits.items() for full in places(draft, layer)}
    few = reads_few(model, [full for full, form in told.items() if form.stored == 4 and form.integer], draft.example)
    found = {}
    for full, form in told.items():
        module = model.get_submodule(full)
        if isinstance(module, nn.RNN) or isinstance(module, nn.GRU) and module.hidden_size < GRU_FROM:
            form = form.in_float()  # there are no integer kernels, or none that pay
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight") and parameter.dim() > 1:
                shape = len(parameter), parameter[0].numel()
                table = isinstance(module, nn.Embedding)
                found[f"{full}.{name}"] = table_bytes(form, *shape) if table else weight_bytes(form, *shape, full in few)
    return found


def places(draft: Draft, layer: str) -> list[str]:
    """Names of the modules with weights that stand where ``layer`` stood."""
    return ([full for full, _ in draft.parts(layer)] or [layer]) if draft.has(layer) else []


def reads_few(model: nn.Module, names: Collection[str], example: Inputs) -> set[str]:
    """Those of the linear layers that read at most FEW_ROWS rows per sample."""
    found: set[str] = set()
    handles = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):

            def watch(module: nn.Module, args: tuple, name: str = name) -> None:
                if args[0].numel() // (args[0].shape[-1] * len(args[0])) <= FEW_ROWS:
                    found.add(name)

            handles.append(module.register_forward_pre_hook(watch))
    watched(model, [example], handles)
    return found


def layer_bytes(draft: Draft) -> dict[str, float]:
    """{layer: bytes of its parameters in the file} of the layers with bits."""
    narrow, found = narrow_bytes(draft, draft.model), {}
    for layer in draft.bits:
        if draft.has(layer):
            own = draft.model.get_submodule(layer).named_parameters(prefix=layer)
            found[layer] = float(sum(narrow.get(name, 4 * parameter.numel()) for name, parameter in own))
    return found


def fixed_bytes(values: np.ndarray) -> int:
    """Bytes of one weight by the coder that needs least, symbols at fixed widths."""
    table = onnx_constants.table(values, list(values.shape))
    parts = min((found for *_, found in packed.candidates(table, values.ndim == 2)), key=lambda found: packed.cost(found, entropy=False))
    return parts.fixed_bytes
