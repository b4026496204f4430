"""Weights that a module computes from others at every run (weight and spectral normalisation) become plain tensors of the same values, and
those that it keeps to itself (PyTorch's attention) layers that techniques know; see separate.py."""

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.weight_norm import WeightNorm

from autoslim import separate
from autoslim.inputs import Inputs, call, distance
from autoslim.layers import stepwise

#: distance of outputs up to which the separated network is the same
SAME = 1e-4


def baked(model: nn.Module, example: Inputs | None = None) -> nn.Module:
    """The model itself where all its weights are plain; else a copy that computes the same and whose weights are. Modules are separated into
    layers where the copy gives the same outputs for an ``example``."""
    plain = model
    if any(computed(module) for module in model.modules()):
        for module in model.modules():
            for hook in normed(module):  # the weight of the last run hangs on its graph, which cannot be copied; the next run makes it anew
                setattr(module, hook.name, getattr(module, hook.name).detach())
        plain = copy.deepcopy(model)
        with torch.no_grad():
            for module in list(plain.modules()):
                bake(module)
    return plain if example is None or not separate.found(plain) else separated(plain, example)


def separated(model: nn.Module, example: Inputs) -> nn.Module:
    """A copy in eval mode whose modules are separated; the model itself where the copy does not run (its code looks into such a module) or gives
    something else."""
    apart = copy.deepcopy(model)
    separate.separate(apart)
    try:
        with torch.no_grad(), stepwise():
            got = call(apart.eval(), example)
            given = call(model if not model.training else copy.deepcopy(model).eval(), example)
        return apart if distance(got, given) < SAME else model
    except Exception:  # a stranger's forward(): the model stays as it came, and what is wrong with it is told elsewhere
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
