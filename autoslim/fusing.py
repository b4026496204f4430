"""Fold batch norms into the convolutions and linear layers before them, so that a graph is smaller before it is traced."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from autoslim.hooks import watched
from autoslim.inputs import Inputs, call, close
from autoslim.layers import CONVOLUTIONS

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
TOLERANCE = 1e-4


def fused(model: nn.Module, example: Inputs) -> nn.Module:
    """A copy of ``model`` (in eval mode) without the batch norms that could be folded; names of layers stay.

    A norm is folded where its input is exactly what a convolution or linear layer gave, every time that either ran, and nothing else
    can have read that output in between; the result is kept only if it computes the same on ``example``.
    """
    pairs = adjacent(model, example)
    if not pairs:
        return model
    copied = copy.deepcopy(model)
    for name, norm_name in pairs.items():
        layer, norm = copied.get_submodule(name), copied.get_submodule(norm_name)
        fuse = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
        put(copied, name, fuse(layer, norm))
        put(copied, norm_name, nn.Identity())
    with torch.no_grad():
        same = close(call(copied, example), call(model, example), TOLERANCE)
    return copied if same else model


def adjacent(model: nn.Module, example: Inputs) -> dict[str, str]:
    """{layer: norm that reads its output}, by the identity of the tensors that went through on ``example``."""
    makers: dict[int, tuple[str, Tensor]] = {}
    calls: dict[str, int] = {}
    found: dict[str, list[str]] = {}

    def made(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if isinstance(output, Tensor):
                makers[id(output)] = name, output  # the reference keeps the identity from being used again

        return hook

    def read(name: str) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            calls[name] = calls.get(name, 0) + 1
            maker = makers.get(id(args[0])) if args else None
            if maker is not None:
                found.setdefault(maker[0], []).append(name)

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, (*CONVOLUTIONS, nn.Linear)):
            handles.append(module.register_forward_hook(made(name)))
        elif isinstance(module, NORMS) and module.track_running_stats:
            handles.append(module.register_forward_pre_hook(read(name)))
    watched(model, [example], handles)
    return {
        layer: readers[0]
        for layer, readers in found.items()
        if len(set(readers)) == 1 and calls[layer] == calls[readers[0]] == len(readers)
    }


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set a submodule by its full name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module.eval())
