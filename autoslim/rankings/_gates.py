"""Derivatives of the loss with respect to gates on channels: a gate multiplies what every reader of a channel reads from it.

The chain rule gives a gate's derivative as the sum of w dL/dw over the weights that read the channel, whatever kind of layer they are
in. The loss is -log p(y | x) for a y that is drawn from the network's own answer (a class, or its outputs plus noise of their own size),
so that no labels are needed and the mean of squares is the Fisher information (Theis et al. 2018, https://arxiv.org/abs/1801.05787,
section 2; Kunstner et al. 2019, https://arxiv.org/abs/1905.12558, on why y is drawn).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoslim.inputs import Inputs, batch_size, call, rows, tensors
from autoslim.layers import CELLS, RECURRENT, TRANSPOSED, stepwise
from autoslim.structure import HEADS, Group, Member

#: samples whose derivatives are taken, one by one
SAMPLES = 32


def derivatives(model: nn.Module, samples: Sequence[Inputs], groups: Mapping[str, Group]) -> dict[str, Tensor]:
    """{group: (samples, size) float64 derivatives of the loss with respect to the gates of its channels}; groups that no weight of the
    model reads are left out, and all of them where the outputs have no derivatives."""
    modules = dict(model.named_modules())
    spots = {name: [(member, *spot) for member in reading(group) for spot in read(modules, member)] for name, group in groups.items()}
    spots = {name: found for name, found in spots.items() if found}
    weights = {id(value): value for found in spots.values() for _, value, _, _ in found}
    found: dict[str, list[Tensor]] = {name: [] for name in spots}
    for number, sample in enumerate(singles(samples)):
        slopes = gradients(model, sample, list(weights.values()), number)
        if slopes is None:
            return {}
        by_weight = {key: value.detach().double() * slope.double() for (key, value), slope in zip(weights.items(), slopes, strict=True)}
        for name, places in spots.items():
            parts = [along(by_weight[id(value)], dim, size, member) for member, value, dim, size in places]
            found[name].append(torch.stack(parts).sum(0))
    return {name: torch.stack(rows_) for name, rows_ in found.items() if rows_}


def singles(samples: Sequence[Inputs]) -> Iterator[Inputs]:
    """The first samples, one by one."""
    left = SAMPLES
    for batch in samples:
        for start in range(min(left, batch_size(batch))):
            yield rows(batch, start, start + 1)
        left -= min(left, batch_size(batch))


def gradients(model: nn.Module, sample: Inputs, weights: list[Tensor], number: int) -> list[Tensor] | None:
    """dL/dw of every weight for one sample; None where the outputs do not depend on them smoothly."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        with torch.enable_grad(), stepwise():
            loss = surprise(call(model, sample), number)
            if loss is None or not loss.requires_grad:
                return None
            found = torch.autograd.grad(loss, weights, allow_unused=True)
    finally:
        for weight, was in zip(weights, before, strict=True):
            weight.requires_grad_(was)
    return [torch.zeros_like(weight) if slope is None else slope for weight, slope in zip(weights, found, strict=True)]


def surprise(outputs: Any, number: int) -> Tensor | None:
    """-log p(y | x) up to a constant, for one y drawn from the network's own answer; None without floating outputs."""
    chance = torch.Generator().manual_seed(number)
    floats = [tensor for tensor in tensors(outputs) if tensor.is_floating_point() and tensor.numel()]
    if len(floats) == 1 and floats[0].dim() == 2 and floats[0].shape[1] > 1:
        scores = F.log_softmax(floats[0], 1)
        drawn = torch.multinomial(scores.detach().exp(), 1, generator=chance)
        return -scores.gather(1, drawn).sum()
    parts = []
    for tensor in floats:
        size = tensor.detach().square().mean().sqrt().clamp_min(1e-12)
        drawn = tensor.detach() + size * torch.randn(tensor.shape, generator=chance).to(tensor.dtype)
        parts.append((tensor - drawn).square().sum() / (2 * size.square()))
    return torch.stack(parts).sum() if parts else None


def reading(group: Group) -> list[Member]:
    """The members that read a group's channels; those that write them where nothing else holds weights, as in a dot product."""
    read_by = [member for member in group.members if member.reads or member.axis == "hidden"]
    return read_by or [member for member in group.members if member.axis != HEADS]


def read(modules: Mapping[str, nn.Module], member: Member) -> Iterator[tuple[Tensor, int, int]]:
    """(weight, dimension, length of the axis) of the weights that lie along a member's axis; deeper layers of a stack of recurrent ones
    read the hidden units once per direction."""
    module = modules.get(member.module)
    if module is None:
        return
    if ":" in member.axis:
        attribute, _, dim = member.axis.rpartition(":")
        yield from [(value, int(dim), value.shape[int(dim)]) for value in [getattr(module, attribute)] if isinstance(value, nn.Parameter)]
    elif isinstance(module, (*RECURRENT, *CELLS)):
        for name, value in module.named_parameters():
            first = name in ("weight_ih", "weight_ih_l0", "weight_ih_l0_reverse")
            if member.axis == "in" and first:
                yield value, 1, module.input_size
            elif member.axis == "hidden" and name.startswith("weight") and not first:
                yield value, 1, module.hidden_size
    elif isinstance(getattr(module, "weight", None), nn.Parameter):
        flipped = isinstance(module, TRANSPOSED)
        dim = int((member.axis == "in") != flipped) if module.weight.dim() > 1 else 0
        dim = 1 if isinstance(module, nn.Embedding | nn.EmbeddingBag) else dim
        yield module.weight, dim, module.weight.shape[dim]


def along(products: Tensor, dim: int, size: int, member: Member) -> Tensor:
    """(channels,) sums of the products of one weight over all but the root channels."""
    line = products.movedim(dim, 0).flatten(1).sum(1).view(-1, size).sum(0)
    return torch.stack([line[list(spots)].sum() for spots in member.positions])
