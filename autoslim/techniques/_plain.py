"""Plain students: networks without the projections beside their blocks (He et al. 2015, https://arxiv.org/abs/1512.03385, figure 3, middle)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoslim.engine import Draft
from autoslim.hooks import watched
from autoslim.inputs import Inputs
from autoslim.layers import CONVOLUTIONS, NORMS

ADDITIONS = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__, Tensor.__iadd__}


class Nothing(nn.Module):
    """What stands where a projection stood: a zero without axes, which an addition takes for any shape."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def straighten(draft: Draft) -> bool:
    """Leave the projections out; whether there were any."""
    found = projections(draft.model, draft.example)
    for name in found:
        draft.replace(name, Nothing())
    return bool(found)


def projections(model: nn.Module, example: Inputs) -> list[str]:
    """Modules of one 1x1 convolution, and norms behind it, that only an addition reads and whose input another layer reads too: the deeper path
    that the sum leaves."""
    outer = [name for name, module in model.named_modules() if name and is_projection(module)]
    names = [name for name in outer if not any(name.startswith(other + ".") for other in outer)]
    flows = {name: [] for name in names}
    sums = Sums()
    read: dict[int, set[str]] = {}

    def enter(name: str, args: tuple) -> None:
        for value in args[:1]:
            read.setdefault(id(value), set()).add(name)
            sums.kept.append(value)

    def leave(name: str, args: tuple, output: Any) -> None:
        flows[name].append((id(args[0]), id(output)))
        sums.kept.append(output)

    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: enter(name, args))
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS)
    ]
    handles += [model.get_submodule(name).register_forward_hook(lambda _, *told, name=name: leave(name, *told)) for name in names]
    with sums:
        watched(model, [example], handles)

    def beside(name: str, source: int) -> bool:
        return any(reader != name and not reader.startswith(name + ".") for reader in read.get(source, ()))

    return [name for name in names if len(flows[name]) == 1 and beside(name, flows[name][0][0]) and sums.alone(flows[name][0][1])]


def is_projection(module: nn.Module) -> bool:
    """Whether a module is one 1x1 convolution, alone or in a sequence with norms."""
    parts = list(module) if isinstance(module, nn.Sequential) else [module]
    layers = [part for part in parts if not isinstance(part, (*NORMS, nn.Identity))]
    return len(layers) == 1 and isinstance(layers[0], CONVOLUTIONS) and set(layers[0].kernel_size) == {1} and layers[0].groups == 1


class Sums(TorchFunctionMode):
    """Which tensors additions read and which other functions do; ``kept`` holds them, so that no two have one identity."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Any] = []
        self._added: set[int] = set()
        self._others: set[int] = set()

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        whole = function in ADDITIONS and len(args) > 1 and all(isinstance(value, Tensor) for value in args[:2])
        whole = whole and args[0].shape == args[1].shape
        for value in (*args, *(kwargs or {}).values()):
            for one in value if isinstance(value, list | tuple) else [value]:
                if isinstance(one, Tensor):
                    self.kept.append(one)
                    (self._added if whole else self._others).add(id(one))
        return function(*args, **(kwargs or {}))

    def alone(self, mark: int) -> bool:
        """Whether additions of equal shapes read a tensor, and nothing else does."""
        return mark in self._added and mark not in self._others
