"""Which modules can be removed whole: those that are the identity once their weights are zero, as residual blocks are."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.hooks import watched
from autoslim.inputs import Inputs, tensors
from autoslim.layers import NORMS, stepwise
from autoslim.separate import Attention
from autoslim.structure import Block, Layer

#: largest relative difference between a silenced block's output and its input; leaves room for a normalisation after the
#: addition (post-norm Transformers), far from what a block without a shortcut would give (1.0)
NEARLY_IDENTITY = 0.35


class Skip(nn.Module):
    """What stands where a removed block stood: returns its first input, as a tuple of one if the block gave a tuple."""

    def __init__(self, as_tuple: bool = False) -> None:
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (x,) if self.as_tuple else x


def find(model: nn.Module, example: Inputs, layers: dict[str, Layer]) -> dict[str, Block]:
    """{name: Block} of the removable modules; where they nest (a stage of blocks) the innermost. ``model`` is not changed."""
    seen = observe(model, example)
    found: dict[str, Block] = {}
    for name in sorted(seen, key=lambda name: -name.count(".")):
        module = model.get_submodule(name)
        inside = [layer for layer in layers.values() if layer.name.startswith(name + ".")]
        if inside and not any(inner.startswith(name + ".") for inner in found) and is_residual(module, *seen[name]):
            found[name] = Block(
                name, sum(p.numel() for p in module.parameters()), sum(layer.macs for layer in inside), isinstance(seen[name][1], tuple)
            )
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return {name: found[name] for name in sorted(found, key=order.__getitem__)}


def observe(model: nn.Module, example: Inputs) -> dict[str, tuple[tuple, Any]]:
    """{module: ((args, kwargs), output)} of each module that ran once, has children and keeps its input's shape."""
    seen: dict[str, tuple[tuple, Any]] = {}
    twice: set[str] = set()
    handles = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if name in seen:
                twice.add(name)
            first, produced = next(iter(args), None), tensors(output)
            if isinstance(first, Tensor) and first.is_floating_point() and produced and first.shape == produced[0].shape:
                seen[name] = ((args, kwargs), output)

        return hook

    for name, module in model.named_modules():
        if name and any(True for _ in module.children()) and not isinstance(module, nn.MultiheadAttention | Attention):
            handles.append(module.register_forward_hook(watch(name), with_kwargs=True))
    with stepwise():
        watched(model, [example], handles)
    return {name: value for name, value in seen.items() if name not in twice}


def is_residual(module: nn.Module, source: tuple, output: Any) -> bool:
    """Whether the module, with the weights inside it at zero, gives its first input back."""
    args, kwargs = source
    produced = tensors(output)
    single = isinstance(output, Tensor) or isinstance(output, tuple) and len(output) == 1
    if not single or len(produced) != 1:
        return False
    scale = args[0].norm().clamp_min(1e-12)
    for with_norms in (True, False):
        with torch.no_grad(), stepwise():
            got = tensors(muted(module, with_norms)(*args, **kwargs))[0]
        if float((got - args[0]).norm() / scale) < NEARLY_IDENTITY and float(args[0].norm()) > 0:
            return True
    return False


def muted(module: nn.Module, with_norms: bool) -> nn.Module:
    """A copy whose weights are zero; those of batch norms only if told so, those of other norms never. Other tensors are shared."""
    shared = {id(value): value for value in (*module.parameters(), *module.buffers())}
    silent = copy.deepcopy(module, shared)
    for part in silent.modules():
        batch = isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d)
        if batch and with_norms or not isinstance(part, NORMS) and "Norm" not in type(part).__name__:
            for name, value in list(part.named_parameters(recurse=False)):
                setattr(part, name, nn.Parameter(torch.zeros_like(value), requires_grad=False))
    return silent
