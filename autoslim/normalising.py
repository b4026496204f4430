"""LayerNorms that take their statistics over some of their channels, as they do once the others are cut.

Cutting the residual stream of a Transformer changes the means and variances of its LayerNorms. So a cut is not compared with the network whose
readers ignore the channels, but with that network whose LayerNorms ignore them too: what is left to recover is what this change costs.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from autoslim.structure import Axis


class Some(TorchFunctionMode):
    """While it is on, ``layer_norm`` inside a module of ``kept`` normalises by the mean and variance of the kept channels alone."""

    def __init__(self, kept: Mapping[nn.Module, Tensor]) -> None:
        super().__init__()
        self.kept = kept
        self.running: list[nn.Module] = []

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is F.layer_norm and self.running:
            return partial(self.kept[self.running[-1]], *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def partial(
    kept: Tensor, x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Layer norm over the last dimension (Ba et al. 2016, https://arxiv.org/abs/1607.06450, eq. 4), statistics of the channels ``kept``."""
    own = x.index_select(-1, kept)
    found = (x - own.mean(-1, keepdim=True)) / (own.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


@contextmanager
def over(model: nn.Module, cut: Mapping[tuple[str, Axis], Tensor]) -> Iterator[None]:
    """LayerNorms of ``model`` that a plan of surgery.py would cut take their statistics over what the plan keeps."""
    modules = dict(model.named_modules())
    kept = {modules[name]: at for (name, axis), at in cut.items() if axis == "out" and isinstance(modules.get(name), nn.LayerNorm)}
    if not kept:
        yield
        return
    mode, handles = Some(kept), []
    for module in kept:
        handles.append(module.register_forward_pre_hook(lambda own, args: mode.running.append(own)))
        handles.append(module.register_forward_hook(lambda own, args, output: mode.running.pop() and None, always_call=True))
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()
