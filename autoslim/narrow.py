"""How a network runs fast while it teaches or learns: in bfloat16, with channels last, where it gains and bears that."""

import copy
import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import host
from autoslim.inputs import Inputs, call

GROUPED = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
#: the share of the time below which bfloat16 is worth its roundings; what is near it would differ from one process to the next
MUCH, TRIES = 0.8, 6


def gains(model: nn.Module) -> bool:
    """Whether bfloat16 saves time: the processor has units for it that are :func:`faster`, and no convolution is a grouped one. Those have no
    such kernels for their gradients in PyTorch 2 (measured: a depthwise one of stride 2 takes eleven times as long, a separable student
    three times)."""
    grouped = any(isinstance(module, GROUPED) and module.groups > 1 for module in model.modules())
    return not grouped and "avx512_bf16" in host.instruction_sets() and faster()


@functools.cache
def faster() -> bool:
    """Whether this processor takes less than MUCH of the time for a convolution with its gradients in bfloat16: the shortest of some tries in
    turn. Its instruction sets do not tell: of two machines with avx512_bf16 one took a third of the time, the other, without AMX,
    1.3 to 2 times as long (convolutions of 16 to 512 channels, products of 64 to 768 columns)."""
    layer = nn.Conv2d(32, 32, 3, padding=1).to(memory_format=torch.channels_last)
    images = torch.zeros(32, 32, 14, 14).contiguous(memory_format=torch.channels_last)
    spent: dict[bool, list[float]] = {False: [], True: []}
    with torch.enable_grad():
        for _ in range(TRIES):
            for narrow, found in spent.items():
                start = time.perf_counter()
                with torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
                    outputs = layer(images)
                outputs.float().sum().backward()
                found.append(time.perf_counter() - start)
    return min(spent[True]) < MUCH * min(spent[False])


@contextmanager
def narrowed(model: nn.Module, allowed: bool = True) -> Iterator[None]:
    """Within it, ``model`` runs in bfloat16 where that :func:`gains` and is ``allowed``."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=allowed and gains(model)):
        yield


def channels_last(model: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy with channels last, which is a quarter faster for small images; the model itself where it does not bear that: weights of five
    axes have no such form, and ``view`` refuses maps in it. ``inputs``: some that it takes."""
    if any(value.dim() > 4 for value in model.state_dict().values()):
        return model
    turned = copy.deepcopy(model).to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            call(turned, inputs)
    except RuntimeError:
        return model
    return turned


def widened(leaf: Any) -> Any:
    """Numbers of bfloat16 as float32; anything else as it is."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 else leaf
