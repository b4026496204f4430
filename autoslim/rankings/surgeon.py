"""Surgeon: second order, channel by channel, the readers' weights solved by least squares for those that stay (structured OBS).

Hassibi and Stork 1992 for whole columns of a layer, as in Kurtic et al. 2023 (ZipLM, https://arxiv.org/abs/2302.04089, eq. 3 and 4): the
channel goes that costs least once all other weights make up for it. The Hessian of a layer is the Gram matrix of its inputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoslim import readings
from autoslim.engine import Draft
from autoslim.structure import Group

#: damping as a share of the mean diagonal, and the most columns of a reader's weight (its Gram matrix must be inverted)
DAMPING, MOST = 0.01, 2048


@dataclass
class Reader:
    """One layer that reads a group: its weight (outputs, columns), the inverse of its damped Gram matrix (columns, columns), and the
    columns of each channel, (channels, width)."""

    weight: Tensor
    inverse: Tensor
    columns: Tensor

    def blocks(self) -> Tensor:
        """(channels, width, width) inverses of the diagonal blocks."""
        return torch.linalg.inv(self.inverse[self.columns[:, :, None], self.columns[:, None, :]])

    def costs(self) -> Tensor:
        """(channels,) squared error of the outputs that is left when a channel goes and the rest makes up for it (eq. 3)."""
        own = self.weight[:, self.columns].transpose(0, 1)  # (channels, outputs, width)
        return torch.einsum("cow,cwv,cov->c", own, self.blocks(), own)

    def remove(self, channel: int) -> None:
        """Solve the weight for the columns that stay (eq. 4), and take the channel out of the inverse."""
        gone = self.columns[channel]
        solved = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])  # (width, columns)
        self.weight = self.weight - self.weight[:, gone] @ solved
        self.inverse = self.inverse - self.inverse[:, gone] @ solved
        self.inverse[gone, gone] += 1.0  # so that its block can be inverted still; it is not looked at again


class Member:
    """The score of a channel is the squared error of all readers' outputs, per row, when it has gone and those before it; groups that a
    layer of another kind reads, or too wide a one, have no score."""

    def scores(self, draft: Draft, groups: Mapping[str, Group]) -> dict[str, Tensor | None]:
        grams = grams_of(draft, groups.values())
        return {name: ranked(readers_of(draft.model, group, grams), group.size) for name, group in groups.items()}

    def settle(self, draft: Draft, chosen: Sequence[tuple[Group, Tensor]]) -> None:
        """Give the readers the weights that are best without the channels that go; those weights are cut next."""
        grams = grams_of(draft, [group for group, _ in chosen])
        gone: dict[str, set[int]] = {}
        for group, kept in chosen:
            for name, columns in columns_of(draft.model, group).items():
                lost = sorted(set(range(group.size)) - set(kept.tolist()))
                gone.setdefault(name, set()).update(columns[lost].flatten().tolist())
        for name, columns in gone.items():
            if name in grams:
                solve(draft.model.get_submodule(name), grams[name], columns)


def columns_of(model: nn.Module, group: Group) -> dict[str, Tensor]:
    """{reader: (channels, width) columns of its flattened weight}, of the readers that read the same number of columns of each channel;
    {} if one of another kind is among them."""
    found = {}
    modules = dict(model.named_modules())
    for member in group.members:
        module = modules.get(member.module)
        if not member.reads or module is None:
            continue
        fits = readings.readable(module) and getattr(module, "groups", 1) == 1 and member.axis == "in"
        if not fits or len({len(spots) for spots in member.positions}) > 1 or module.weight[0].numel() > MOST:
            return {}
        size = module.weight[0, 0].numel()
        found[member.module] = torch.tensor(
            [[spot * size + place for spot in spots for place in range(size)] for spots in member.positions]
        )
    return found


def grams_of(draft: Draft, groups: Sequence[Group]) -> dict[str, Tensor]:
    """{reader: damped mean Gram matrix of what it reads, (columns, columns) float64}."""
    grams: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module, inputs: Tensor) -> None:
        rows = inputs[:, 0].double()
        gram = rows.t() @ rows / len(rows)
        gram.diagonal().add_(DAMPING * gram.diagonal().mean().clamp_min(1e-12))
        grams[name] = gram

    names = {name for group in groups for name in columns_of(draft.model, group)}
    if names and draft.samples:
        readings.visit(draft.model, names, draft.samples, look)
    return grams


def readers_of(model: nn.Module, group: Group, grams: Mapping[str, Tensor]) -> list[Reader]:
    """The readers of a group; [] if one of them cannot be told."""
    columns = columns_of(model, group)
    if not columns or not grams.keys() >= columns.keys():
        return []
    weights = {name: model.get_submodule(name).weight.detach().double().flatten(1) for name in columns}
    return [Reader(weights[name], torch.linalg.inv(grams[name]), columns[name]) for name in columns]


def ranked(readers: Sequence[Reader], size: int) -> Tensor | None:
    """(size,) scores: the error when the channel has gone, after all that went before it."""
    if not readers:
        return None
    scores, alive, total = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.bool), 0.0
    for _ in range(size):
        costs = torch.stack([reader.costs() for reader in readers]).sum(0).masked_fill(~alive, torch.inf)
        channel = int(costs.argmin())
        total += max(float(costs[channel]), 0.0)
        scores[channel], alive[channel] = total, False
        for reader in readers:
            reader.remove(channel)
    return scores


def solve(module: nn.Module, gram: Tensor, gone: set[int]) -> None:
    """The least-squares weight on the columns that stay, W G[:, K] G[K, K]^-1; the others become zero."""
    weight = module.weight.detach().double().flatten(1)
    kept = torch.tensor([column for column in range(weight.shape[1]) if column not in gone])
    found = torch.zeros_like(weight)
    found[:, kept] = torch.linalg.solve(gram[kept][:, kept], (weight @ gram[:, kept]).t()).t()
    module.weight.data.copy_(found.view_as(module.weight))
