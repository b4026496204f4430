"""Which weighted layers a model runs, in which order, with which parameters and multiply-accumulates."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.inputs import Inputs, batch_size, call, tensors
from autoslim.structure import Layer

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RECURRENT = (nn.GRU, nn.LSTM, nn.RNN)
CELLS = (nn.GRUCell, nn.LSTMCell, nn.RNNCell)
COUNTED = (*CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, *RECURRENT, nn.MultiheadAttention)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d)
#: parameters that cost no multiply-accumulate worth naming: folded, looked up or element-wise
CHEAP = (*NORMS, nn.Embedding, nn.EmbeddingBag, nn.PReLU)


def macs_of(module: nn.Module, inputs: Any, output: Any) -> int:
    """Multiply-accumulates of one call, by the textbook formula of each kind; biases are not counted."""
    if isinstance(module, nn.Linear):
        return tensors(inputs)[0].numel() * module.out_features
    if isinstance(module, RECURRENT):
        steps = tensors(inputs)[0].numel() // module.input_size
        return steps * sum(weight.numel() for name, weight in module.named_parameters() if name.startswith("weight_"))
    if isinstance(module, nn.MultiheadAttention):
        return attention_macs(module, *tensors(inputs)[:3])
    weights_per_position = module.weight.numel()
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return tensors(inputs)[0].numel() // module.in_channels * weights_per_position
    return tensors(output)[0].numel() // module.out_channels * weights_per_position


def attention_macs(module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> int:
    """Projections of query, key, value and output, and the two products inside (scores, and scores times values)."""
    width = module.embed_dim
    long, wide = query.numel() // query.shape[-1], key.numel() // key.shape[-1]
    batch = 1 if query.dim() == 2 else query.shape[0 if module.batch_first else 1]
    projections = 2 * long * width * width + wide * width * (key.shape[-1] + value.shape[-1])
    return projections + 2 * batch * (long // batch) * (wide // batch) * width


def weighted(model: nn.Module) -> dict[str, nn.Module]:
    """{name: module} of the layers that count, each module once, under its first name."""
    inside = {child for module in model.modules() if isinstance(module, nn.MultiheadAttention) for child in module.children()}
    return {name: module for name, module in model.named_modules() if isinstance(module, COUNTED) and module not in inside}


def trace(model: nn.Module, example: Inputs) -> tuple[dict[str, Layer], tuple[str, ...]]:
    """({name: Layer} in the order of execution, names of what is not counted), from one run on ``example``.

    Nothing but forward hooks is used, so control flow, dicts and custom modules do not matter.
    """
    found: dict[str, Layer] = {}
    names = {module: name for name, module in weighted(model).items()}

    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        name = names[module]
        per_sample = macs_of(module, (args, kwargs), output) // max(batch, 1)
        if name in found:
            known = found[name]
            found[name] = replace(known, macs=known.macs + per_sample, calls=known.calls + 1)
        else:
            found[name] = describe(name, module, per_sample, len(found))

    batch = batch_size(example)
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in names]
    try:
        with torch.no_grad():
            call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return found, uncounted(model, found)


def describe(name: str, module: nn.Module, macs: int, order: int) -> Layer:
    """The Layer of one module; parameters are its own, children included."""
    params = sum(parameter.numel() for parameter in module.parameters())
    kind = type(module).__name__
    if isinstance(module, nn.Linear):
        return Layer(name, kind, params, macs, module.out_features, module.in_features, order=order)
    if isinstance(module, nn.MultiheadAttention):
        return Layer(name, kind, params, macs, module.embed_dim, module.embed_dim, order=order)
    if isinstance(module, RECURRENT):
        return Layer(name, kind, params, macs, module.hidden_size, module.input_size, order=order)
    return Layer(name, kind, params, macs, module.out_channels, module.in_channels, tuple(module.kernel_size), module.groups, order=order)


def uncounted(model: nn.Module, found: dict[str, Layer]) -> tuple[str, ...]:
    """What the MAC count leaves out, in words: weighted layers that never ran and parameters of kinds without a formula."""
    notes = [f"{name}: never ran on the example input" for name in weighted(model) if name not in found]
    for name, module in model.named_modules():
        own: list[Tensor] = list(module.parameters(recurse=False))
        if own and not isinstance(module, (*COUNTED, *CHEAP)):
            notes.append(
                f"{name or 'model'} ({type(module).__name__}): {sum(p.numel() for p in own)} parameters of a kind without a MAC formula"
            )
    return tuple(notes)


def count(model: nn.Module, example: Inputs) -> tuple[int, int]:
    """(parameters of the whole model, counted multiply-accumulates for one sample)."""
    layers, _ = trace(model, example)
    return sum(parameter.numel() for parameter in model.parameters()), sum(layer.macs for layer in layers.values())
