"""Regularised training before the cut: weights, or whole channels, that the network can do without are pulled towards zero.

Value: the ``strength`` of the pull from 0 up to 10 (on the layer's weights), or a mapping of it, ``of`` (weights: the L1 norm of Tibshirani
1996, doi 10.1111/j.2517-6161.1996.tb02080.x; channels: the group lasso of Yuan & Lin 2006, doi 10.1111/j.1467-9868.2005.00532.x, eq. 2.1,
over all that belongs to a channel in the layers that write and read it, grouped as Fang et al. 2023, https://arxiv.org/abs/2301.12900,
do), ``steps`` (of label-free distillation on the calibration inputs, 60) and ``lr`` (0.01, a share of each tensor's root mean square). It
is meant before ``channels``, ``sparsity`` or ``gradual`` of the same unit, which then lose less; nothing is removed by it.

The loss is gap + strength * norm / norm before, so that a strength is what the whole unit is worth, in units of the gap, whatever the size
of its weights.
"""

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import optimizing
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.importance import second_moments
from autoslim.inputs import Inputs, call
from autoslim.interfaces import Unit
from autoslim.layers import CONVOLUTIONS, NORMS, TRANSPOSED
from autoslim.recovery import CLIP, gap
from autoslim.structure import HEADS, Group, Structure

DEFAULTS = {"lr": 0.01, "of": "weights", "steps": 60}
MOST = 10


class Member:
    """L1 and group-lasso training before the cut; see the module."""

    order = 22
    by_weights = True
    values = (0.0, 0.1, 1.0)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution or linear layer, and one per group of channels, named after its first layer."""
        layers = {name for name, layer in structure.layers.items() if "Conv" in layer.kind or "Linear" in layer.kind}
        groups = {group.name: group for group in structure.groups.values() if group.size > 1 and group.kind != HEADS}
        names = [name for name in structure.layers if name in layers] + [name for name in groups if name not in layers]
        return {
            name: Unit(
                name,
                tuple(dict.fromkeys((name, *(groups[name].producers if name in groups else ())))),
                {"weights": name in layers, "channels": name in groups},
            )
            for name in names
        }

    def effective(self, unit: Unit, value: Any) -> float | dict[str, Any] | None:
        """None also where the unit has nothing of the kind: no group of channels begins at it, or it is no layer with a weight."""
        full = DEFAULTS | (dict(value) if isinstance(value, Mapping) else {"strength": value})
        if set(full) != {*DEFAULTS, "strength"} or not all(valid(key, part) for key, part in full.items()):
            raise UserError(
                f"regularised of {unit.name}: got {value!r}, allowed: a strength from 0 up to {MOST}, or a mapping of strength, "
                "of (weights or channels), steps (an integer from 1) and lr (a number above 0)"
            )
        if full["strength"] == 0 or not unit.facts.get(full["of"], True):
            return None
        full["strength"] = float(full["strength"])
        short = {key: part for key, part in full.items() if DEFAULTS.get(key) != part}
        return full["strength"] if set(short) == {"strength"} else dict(sorted(short.items()))

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Train all layers together towards the outputs the draft had and small norms, without labels; a note for groups that are gone."""
        plans = {name: DEFAULTS | (value if isinstance(value, Mapping) else {"strength": value}) for name, value in choices.items()}
        gone = [name for name, plan in plans.items() if plan["of"] == "channels" and name not in draft.structure.groups]
        if gone:
            draft.notes.append(f"regularised: {', '.join(gone)} left alone, no group of channels begins there any longer")
        plans = {name: plan for name, plan in plans.items() if draft.has(name) and name not in gone}
        if plans:
            teacher = copy.deepcopy(draft.model)
            with torch.no_grad():
                lessons = [(inputs, call(teacher, inputs)) for inputs in draft.samples]
            with torch.enable_grad():
                learn(draft, plans, lessons)
            draft.moments = second_moments(draft.model, draft.samples)


def valid(key: str, value: Any) -> bool:
    """Whether a value is allowed for a key."""
    if key == "of":
        return value in ("weights", "channels")
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    if key == "steps":
        return isinstance(value, int) and value >= 1
    return value > 0 if key == "lr" else 0 <= value <= MOST


def learn(draft: Draft, plans: Mapping[str, Mapping[str, Any]], lessons: list[tuple[Inputs, Any]]) -> None:
    """Train ``draft.model`` towards the outputs it had and small norms; the zeros and levels of earlier steps stay."""
    steps, lr = max(plan["steps"] for plan in plans.values()), min(plan["lr"] for plan in plans.values())
    flags = {parameter: parameter.requires_grad for parameter in draft.model.parameters()}
    trainable = [parameter.requires_grad_(True) for parameter in flags if parameter.is_floating_point()]
    optimizer = optimizing.relative(trainable, lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimizing.pace("cosine", step, steps))
    whole = {name: norm(draft, name, plan["of"]).detach().clamp_min(1e-12) for name, plan in plans.items()}
    for step in range(steps):
        inputs, wanted = lessons[step % len(lessons)]
        optimizer.zero_grad()
        loss = gap(call(draft.model, inputs), wanted)
        if loss.requires_grad:
            loss.backward()
        nn.utils.clip_grad_norm_(trainable, CLIP)  # of the gap alone: the pull is as strong as it was told
        pull = sum(plan["strength"] * norm(draft, name, plan["of"]) / whole[name] for name, plan in plans.items())
        if pull.requires_grad:
            pull.backward()
        optimizer.step()
        schedule.step()
        draft.constrain(draft.model)
    optimizer.zero_grad(set_to_none=True)
    for parameter, flag in flags.items():
        parameter.requires_grad_(flag)


def norm(draft: Draft, name: str, of: str) -> Tensor:
    """The sum of absolute weights of a layer, or of the Euclidean norms of a group's channels."""
    if of == "weights":
        return sum(module.weight.abs().sum() for _, module in draft.parts(name) if not isinstance(module, NORMS))
    return energies(draft.model, draft.structure.groups[name]).add(1e-12).sqrt().sum()


def energies(model: nn.Module, group: Group) -> Tensor:
    """(size,) the sum of squares of all weights that belong to each root channel, to be differentiated; of convolutions, linear layers and
    norms. Members of other kinds, and those that went, take no part."""
    total = torch.zeros(group.size)
    for member in group.members:
        try:
            module = model.get_submodule(member.module)
        except AttributeError:
            continue  # removed with its block
        for squares in along(module, member.axis):
            total = total + torch.stack([squares[list(spots)].sum() for spots in member.positions])
    return total


def along(module: nn.Module, axis: str) -> Iterator[Tensor]:
    """Sums of squares of a module's tensors at each index of one axis."""
    if isinstance(module, NORMS) and axis == "out" and module.weight is not None:
        yield from (part.square() for part in (module.weight, module.bias) if part is not None)
    elif isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED)) and axis in ("in", "out"):
        squares = module.weight.square()
        squares = squares.transpose(0, 1) if isinstance(module, TRANSPOSED) else squares
        if axis == "out" and getattr(module, "groups", 1) in (1, module.weight.shape[0]):
            yield squares.flatten(1).sum(1)
            if module.bias is not None:
                yield module.bias.square()
        elif axis == "in" and getattr(module, "groups", 1) == 1:
            yield squares.transpose(0, 1).flatten(1).sum(1)
