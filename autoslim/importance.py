"""How much a channel of a group matters, and which ones to keep.

The score is what the channel's consumers read from it, the sum over consumers of ||W[:, c]||^2 * E[x_c^2]: the structured
form of Wanda (Sun et al. 2024, https://arxiv.org/abs/2306.11695, eq. 1). Without samples it is the squared L2 norm of the
weights that write it (Li et al. 2017, https://arxiv.org/abs/1608.08710), each layer scaled to mean one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import surgery
from autoslim.hooks import watched
from autoslim.inputs import Inputs, tensors
from autoslim.layers import CELLS, RECURRENT, TRANSPOSED, stepwise
from autoslim.structure import HEADS, Group


def keep_best(model: nn.Module, moments: Mapping[str, Tensor], group: Group, count: int) -> Tensor:
    """Sorted indices, (count,) int64, of the group's most important root channels; all of them if it has fewer."""
    scores = importance(model, moments, group)
    return torch.topk(scores, min(count, group.size)).indices.sort().values


def second_moments(model: nn.Module, samples: Sequence[Inputs]) -> dict[str, Tensor]:
    """{layer: E[x_c^2], (inputs,) float64} over ``samples`` for every layer whose input channels can be told apart."""
    return input_means(model, samples, torch.square)


def input_means(model: nn.Module, samples: Sequence[Inputs], act: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """{layer: E[act(x_c)], (inputs,) float64} over ``samples`` for every layer whose input channels can be told apart."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str, channels: int) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            x = tensors((args, kwargs))[0].detach()
            last = isinstance(module, (nn.Linear, *RECURRENT, *CELLS)) or hasattr(module, "nx")
            if x.shape[-1 if last else 1] != channels:
                return
            flat = (x.reshape(-1, channels) if last else x.transpose(0, 1).flatten(1).t()).double()
            sums[name] = sums.get(name, 0) + act(flat).sum(0)
            counts[name] = counts.get(name, 0) + len(flat)

        return hook

    handles = []
    for name, module in model.named_modules():
        sizes = (getattr(module, name, None) for name in ("in_features", "in_channels", "input_size", "nx"))  # nx: transformers' Conv1D
        channels = next((size for size in sizes if isinstance(size, int)), None)
        if channels and (isinstance(module, (nn.Linear, *RECURRENT, *CELLS)) or hasattr(module, "out_channels") or hasattr(module, "nx")):
            handles.append(module.register_forward_hook(watch(name, channels), with_kwargs=True))
    with stepwise():
        watched(model, samples, handles)
    return {name: total / counts[name] for name, total in sums.items()}


def importance(model: nn.Module, moments: Mapping[str, Tensor], group: Group) -> Tensor:
    """(size,) one score per root channel; larger is more important. Only where no reader's inputs are known do norms decide."""
    total = torch.zeros(group.size, dtype=torch.float64)
    own = torch.zeros(group.size, dtype=torch.float64)
    for member in group.members:
        try:
            module = model.get_submodule(member.module)
        except AttributeError:
            continue  # removed with its block
        squares = moments.get(member.module)
        if member.reads and squares is not None:
            norms = axis_norms(module, member.axis) if member.axis != "in" else None
            if member.axis != "in" and norms is None:
                continue  # removed with its block
            energy = column_norms(module, squares) if norms is None else norms * squares
            total += torch.stack([energy[list(spots)].sum() for spots in member.positions])
        elif (norms := axis_norms(module, member.axis)) is not None:
            share = torch.stack([norms[list(spots)].sum() for spots in member.positions])
            own += share / share.mean().clamp_min(1e-30)
    return total if bool(total.any()) else own


def axis_norms(module: nn.Module, axis: str, act: Callable[[Tensor], Tensor] = torch.square) -> Tensor | None:
    """Squared norm of the weights at each index of one axis, or the sum of ``act`` of them; None for kinds that have no weights there."""
    if ":" in axis:
        name, _, dim = axis.rpartition(":")
        value = getattr(module, name, None)  # a block that was removed has none
        return act(value.detach().double()).movedim(int(dim), 0).flatten(1).sum(1) if value is not None and value.dim() > 1 else None
    if axis == HEADS:
        return None
    return column_norms(module) if axis == "in" else row_norms(module, act)


def column_norms(module: nn.Module, squares: Tensor | None = None) -> Tensor:
    """Squared norm of the weights that read each input channel, (inputs,), each times E[x^2] of the channel if ``squares`` are
    given. A grouped convolution reads the same channel of every group: (inputs / groups,)."""
    if isinstance(module, (*RECURRENT, *CELLS)):
        weights = [value for name, value in module.named_parameters() if name in ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")]
        found = sum(weight.detach().double().square().sum(0) for weight in weights)
        return found if squares is None else found * squares
    weight = module.weight.detach().double().square()
    groups = getattr(module, "groups", 1)
    if isinstance(module, TRANSPOSED):
        found = weight.flatten(1).sum(1)[None]
    else:
        found = weight.flatten(2).sum(2) if weight.dim() > 2 else weight
        found = found.unflatten(0, (groups, -1)).sum(1)  # (groups, inputs / groups)
    return (found if squares is None else found * squares.view(found.shape)).sum(0)


def row_norms(module: nn.Module, act: Callable[[Tensor], Tensor] = torch.square) -> Tensor | None:
    """Squared norm of the weights that write each output channel, (outputs,), or the sum of ``act`` of them; None for kinds that write none."""
    if isinstance(module, (*RECURRENT, *CELLS)):
        gates = surgery.gates(module)
        rows = [act(v.detach().double()).sum(1) for n, v in module.named_parameters() if n.startswith("weight_ih")]
        return torch.stack([row.view(gates, -1).sum(0) for row in rows]).sum(0)
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return act(module.weight.detach().double()).sum(0)
    if isinstance(module, nn.Linear) or hasattr(module, "out_channels"):
        weight = act(module.weight.detach().double())
        return (weight.transpose(0, 1) if isinstance(module, TRANSPOSED) else weight).flatten(1).sum(1)
    return None
