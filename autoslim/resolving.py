"""Solve each layer of a compressed model anew, so that from the inputs it now gets it gives what the original gave.

Layer by layer in the order of execution, a ridge regression from the compressed model's own inputs to the original's outputs
(asymmetric calibration; Li et al. 2025, GPTAQ, https://arxiv.org/abs/2504.02692, and for pruned channels He et al. 2017,
https://arxiv.org/abs/1707.06168, eq. 4). No labels, no gradients: one pass over a few batches.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoslim.hooks import watched
from autoslim.inputs import Inputs
from autoslim.structure import Axis

#: positions per sample and layer that take part, and the ridge as a share of the mean squared input
POSITIONS, RIDGE = 48, 0.01


def solvable(module: nn.Module, grouped: bool = False) -> bool:
    """Plain linear layers and one- and two-dimensional convolutions that pad with zeros or not at all; ungrouped, unless ``grouped``."""
    if isinstance(module, nn.Linear):
        return type(module) is nn.Linear
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d)
        and (grouped or module.groups == 1)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )


def targets(model: nn.Module, batches: Sequence[Inputs], pause: Callable[[], None] = lambda: None) -> dict[str, Tensor]:
    """{layer: its outputs at the chosen positions, (rows, outputs)} of the original model; layers that ran more than once per
    batch are left out."""
    found: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            found.setdefault(name, []).append(pick(name, spread(module, output)))

        return hook

    watched(
        model, batches, [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if solvable(module)], pause
    )
    return {name: torch.cat(rows) for name, rows in found.items() if len(rows) == len(batches)}


def resolve(
    model: nn.Module,
    wanted: Mapping[str, Tensor],
    kept: Mapping[tuple[str, Axis], Tensor],
    batches: Sequence[Inputs],
    pause: Callable[[], None] = lambda: None,
) -> None:
    """Solve the layers of ``model``, in place. ``wanted`` are :func:`targets` of the original on the same ``batches``;
    ``kept`` says which of a layer's outputs are left. All batches go through as one, so they must fit in memory together."""
    joined, solved = join(batches), set()

    def solver(name: str) -> Any:
        def hook(module: nn.Module, args: tuple) -> None:
            pause()
            if name in solved:  # a shared layer is solved where it runs first
                return
            solved.add(name)
            goal = wanted[name]
            columns = kept.get((name, "out"))
            solve(name, module, args[0], goal if columns is None else goal[:, columns])

        return hook

    handles = [
        module.register_forward_pre_hook(solver(name))
        for name, module in model.named_modules()
        if name in wanted and solvable(module, True)
    ]
    watched(model, [joined], handles)


def solve(name: str, module: nn.Module, x: Tensor, goal: Tensor) -> None:
    """Change ``module``'s weight (and bias) by the ridge solution D of goal = patches (W + D), small D preferred; each group of a grouped
    convolution by itself. Sums run in the model's own precision, the system is solved in double precision; the ridge keeps its condition
    far below what single precision resolves."""
    rows = patches(name, module, x)
    groups, weight = getattr(module, "groups", 1), module.weight.detach().flatten(1)
    if len(rows) != len(goal) or goal.shape[1] != len(weight):
        return
    bias = None if module.bias is None else module.bias.detach()
    parts = zip(rows.chunk(groups, 1), goal.chunk(groups, 1), weight.chunk(groups), strict=True)
    biases = [None] * groups if bias is None else bias.chunk(groups)
    found = [change_of(read, want, own, shift) for (read, want, own), shift in zip(parts, biases, strict=True)]
    if any(change is None for change in found):
        return
    change = torch.cat(found, 1)  # (inputs of a group * kernel, and 1 for a bias; outputs)
    if bias is not None:
        module.bias.data += change[-1].to(bias.dtype)
        change = change[:-1]
    module.weight.data += change.t().reshape(module.weight.shape).to(module.weight.dtype)


def change_of(rows: Tensor, goal: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """(inputs, and 1 for a bias; outputs): the ridge solution D of goal = rows (weight + D); None where the system is singular."""
    missing = goal - rows @ weight.t()
    if bias is not None:
        missing = missing - bias
        rows = torch.cat([rows, torch.ones(len(rows), 1, dtype=rows.dtype)], 1)
    gram = (rows.t() @ rows).double()
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-12)
    gram.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(gram)
    change = torch.cholesky_solve((rows.t() @ missing).double(), factor)
    return None if failed or not bool(torch.isfinite(change).all()) else change


def join(batches: Sequence[Inputs]) -> Inputs:
    """Batches of equal form as one batch."""
    return pytree.tree_map(lambda *leaves: torch.cat(leaves) if isinstance(leaves[0], Tensor) and leaves[0].dim() else leaves[0], *batches)


def spread(module: nn.Module, output: Tensor) -> Tensor:
    """Outputs as (samples, positions, channels)."""
    if isinstance(module, nn.Linear):
        return output.reshape(len(output), -1, output.shape[-1])
    return output.flatten(2).transpose(1, 2)


def places(name: str, positions: int) -> Tensor:
    """Which positions of a layer take part: the same for the original and every compressed model."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randperm(positions, generator=generator)[:POSITIONS].sort().values


def pick(name: str, values: Tensor) -> Tensor:
    """(samples, positions, channels) -> (samples * chosen positions, channels)."""
    return values[:, places(name, values.shape[1])].reshape(-1, values.shape[-1])


def patches(name: str, module: nn.Module, x: Tensor) -> Tensor:
    """What the layer reads at the chosen positions, (samples * chosen positions, inputs * kernel)."""
    if isinstance(module, nn.Linear):
        return pick(name, x.reshape(len(x), -1, x.shape[-1]))
    if isinstance(module, nn.Conv1d):
        x, kernel, stride, padding, dilation = (
            x[:, :, None],
            (1, *module.kernel_size),
            (1, *module.stride),
            (0, *module.padding),
            (1, *module.dilation),
        )
    else:
        kernel, stride, padding, dilation = module.kernel_size, module.stride, module.padding, module.dilation
    x = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = ((x.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in (0, 1))
    chosen = places(name, height * width)
    down = (chosen // width * stride[0])[:, None, None] + dilation[0] * torch.arange(kernel[0])[:, None]
    right = (chosen % width * stride[1])[:, None, None] + dilation[1] * torch.arange(kernel[1])
    return x[:, :, down, right].transpose(1, 2).reshape(len(x) * len(chosen), -1)
