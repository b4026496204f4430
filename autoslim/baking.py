"""Weights that a module computes from others at every run (weight and spectral normalisation) become plain tensors of the same values."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm


def baked(model: nn.Module) -> nn.Module:
    """The model itself where all its weights are plain; else a copy that computes the same and whose weights are."""
    if not any(computed(module) for module in model.modules()):
        return model
    for module in model.modules():
        for hook in normed(module):  # the weight of the last run hangs on its graph, which cannot be copied; the next run makes it anew
            setattr(module, hook.name, getattr(module, hook.name).detach())
    model = copy.deepcopy(model)
    with torch.no_grad():
        for module in list(model.modules()):
            bake(module)
    return model


def computed(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or bool(normed(module))


def bake(module: nn.Module) -> None:
    """One module, in place. Not by remove_parametrizations: that takes the property from the class, which a copy shares with its original."""
    if parametrize.is_parametrized(module):
        values = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, value in values.items():
            module.register_parameter(name, nn.Parameter(value))
    for hook in normed(module):
        nn.utils.remove_weight_norm(module, hook.name)


def normed(module: nn.Module) -> list[WeightNorm]:
    """The hooks of torch.nn.utils.weight_norm, which is older than parametrisations."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]
