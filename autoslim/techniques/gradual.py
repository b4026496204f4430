"""Gradual sparsity: zeros come little by little while the network learns to do without, and may move.

Value: the final share of zeros in [0, 1), or a mapping of ``share``, ``steps`` (of label-free distillation on the calibration inputs,
60), ``lr`` (0.001) and ``regrow`` (0). The share follows the cubic schedule of Zhu & Gupta 2017
(https://arxiv.org/abs/1710.01878, eq. 1); the smallest weights of each layer go. With ``regrow`` above 0 the mask stays dynamic, as in
RigL (Evci et al. 2020, https://arxiv.org/abs/1911.11134, section 3): at each update that share of the weights left, fading with a
cosine, goes too, and as many come back where the gradient is largest. The zeros stay zero through recovery.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.inputs import Inputs, call
from autoslim.interfaces import Unit
from autoslim.recovery import CLIP, gap
from autoslim.structure import Structure

DEFAULTS = {"lr": 1e-3, "regrow": 0.0, "steps": 60}
#: the schedule ends after this share of the steps; masks change so many times until then
END, UPDATES = 0.6, 12


class Member:
    """Gradual and dynamic magnitude sparsity; see the module."""

    order = 52
    by_weights = True
    values = (0.0, 0.75, 0.9)

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution or linear layer."""
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if "Conv" in layer.kind or "Linear" in layer.kind}

    def effective(self, unit: Unit, value: Any) -> float | dict[str, Any] | None:
        """The share, or a mapping of what is no default; None for no zeros. Raises UserError."""
        full = DEFAULTS | (dict(value) if isinstance(value, Mapping) else {"share": value})
        if set(full) != {*DEFAULTS, "share"} or not all(valid(key, part) for key, part in full.items()):
            raise UserError(
                f"gradual of {unit.name}: got {value!r}, allowed: a share of zeros from 0 up to below 1, or a mapping of share, "
                "steps (an integer from 1), lr (a number above 0) and regrow (from 0 up to below 1)"
            )
        if full["share"] == 0:
            return None
        short = {key: part for key, part in full.items() if DEFAULTS.get(key) != part}
        return float(full["share"]) if set(short) == {"share"} else dict(sorted(short.items()))

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Train towards the outputs the draft had, without labels, while zeros grow; all layers together."""
        plans = {
            full: DEFAULTS | (value if isinstance(value, Mapping) else {"share": value})
            for name, value in choices.items()
            for full, _ in draft.parts(name)
        }
        if plans:
            teacher = copy.deepcopy(draft.model)
            with torch.no_grad():
                lessons = [(inputs, call(teacher, inputs)) for inputs in draft.samples]
            with torch.enable_grad():
                learn(draft, plans, lessons)


def valid(key: str, value: Any) -> bool:
    """Whether a value is allowed for a key."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    if key == "steps":
        return isinstance(value, int) and value >= 1
    return value > 0 if key == "lr" else 0 <= value < 1


def share_at(final: float, progress: float) -> float:
    """The share of zeros when ``progress``, in [0, 1], of the schedule is over (Zhu & Gupta, eq. 1, from 0)."""
    return final * (1 - (1 - min(progress, 1.0)) ** 3)


def learn(draft: Draft, plans: Mapping[str, Mapping[str, Any]], lessons: list[tuple[Inputs, Any]]) -> None:
    """Train ``draft.model`` towards the outputs it had, with ever more zeros; fills ``draft.masks``."""
    steps = max(plan["steps"] for plan in plans.values())
    flags = {parameter: parameter.requires_grad for parameter in draft.model.parameters()}
    trainable = [parameter.requires_grad_(True) for parameter in flags if parameter.is_floating_point()]
    optimizer = torch.optim.Adam(trainable, lr=min(plan["lr"] for plan in plans.values()))
    layers = {name: draft.model.get_submodule(name) for name in plans}
    fixed = {name: draft.masks.get(name, torch.ones_like(layer.weight)) for name, layer in layers.items()}
    last = max(1, math.ceil(END * steps))
    every = max(1, last // UPDATES)
    for step in range(1, steps + 1):
        inputs, wanted = lessons[(step - 1) % len(lessons)]
        optimizer.zero_grad()
        loss = gap(call(draft.model, inputs), wanted)
        if loss.requires_grad:
            loss.backward()
            nn.utils.clip_grad_norm_(trainable, CLIP)
        if step <= last and (step % every == 0 or step == last):
            for name, layer in layers.items():
                draft.masks[name] = masked(layer.weight, plans[name], step / last, draft.masks.get(name)) * fixed[name]
        optimizer.step()
        draft.constrain(draft.model)
    optimizer.zero_grad(set_to_none=True)
    for parameter, flag in flags.items():
        parameter.requires_grad_(flag)


def masked(weight: Tensor, plan: Mapping[str, Any], progress: float, before: Tensor | None) -> Tensor:
    """The mask at ``progress`` of the schedule: the largest weights, and, if they may move, those with the largest gradients."""
    count = weight.numel() - round(weight.numel() * share_at(plan["share"], progress))
    sizes = weight.detach().abs().flatten()
    moving = 0
    if before is not None and weight.grad is not None and progress < 1:
        moving = int(count * plan["regrow"] * (1 + math.cos(math.pi * progress)) / 2)  # RigL, eq. 2
        moving = min(moving, int((before == 0).sum()))
    kept = torch.zeros(weight.numel(), dtype=weight.dtype)
    kept[sizes.argsort(descending=True, stable=True)[: count - moving]] = 1
    if moving:
        pull = weight.grad.abs().flatten().masked_fill((before.flatten() != 0) | (kept != 0), -1.0)
        kept[pull.argsort(descending=True, stable=True)[:moving]] = 1
    return kept.view_as(weight)
