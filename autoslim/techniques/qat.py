"""Quantisation-aware training: the network learns, towards its own outputs, to do with the integers that it will be shipped with.

Value: a format with integers (8, "w8", "w4", "w4a8"; 32 leaves the layer alone), or a mapping of ``format``, ``steps`` (of label-free
distillation on the calibration inputs, 60), ``lr`` (0.006, a share of each tensor's root mean square) and ``schedule``: bit-widths that
weights pass through before the format's own, each for an equal part of the steps ([8, 6] before "w4a8" is 8, 6, 4; the progressive
quantisation of Zhuang et al. 2018, https://arxiv.org/abs/1711.00205, section 3.2). Weights, and where the format says so what the layer reads, are rounded in the forward pass and straight through in the backward pass (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, section 3); the step of each output, or block of 16 to 32 inputs where the file has blocks, is learnt too
(Esser et al. 2020, LSQ, https://arxiv.org/abs/1902.08153, section 2.1). The file finds the levels that weights lie on already. The result
is shipped by the same kernels as ``bits``, rounded to the nearest, without equalisers, which would move the weights off their levels.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from autoslim import formats, optimizing
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.inputs import Inputs, call
from autoslim.interfaces import Unit
from autoslim.prediction import reads_few
from autoslim.recovery import CLIP, gap
from autoslim.structure import Structure

DEFAULTS = {"lr": 0.006, "schedule": (), "steps": 60}
ALLOWED = (formats.FLOAT, 8, "w8", "w4", "w4a8")
#: shares of the largest weight that the outermost level begins with, the best of them
SHARES = (1.0, 0.9, 0.8, 0.7)
#: how often the gap on all lessons is looked at, the best state being kept
LOOKS = 20


class Member:
    """Quantisation-aware training; see the module."""

    order = 58
    by_weights = True
    values = (formats.FLOAT, "w4a8")

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution or linear layer."""
        kinds = {name: layer.kind for name, layer in structure.layers.items()}
        return {
            name: Unit(name, (name,)) for name, kind in kinds.items() if ("Conv" in kind or "Linear" in kind) and "Transpose" not in kind
        }

    def effective(self, unit: Unit, value: Any) -> Any:
        """The format, or a mapping of what is no default; None for float. Raises UserError."""
        full = DEFAULTS | (dict(value) if isinstance(value, Mapping) else {"format": value})
        if set(full) != {*DEFAULTS, "format"} or not all(valid(key, part) for key, part in full.items()) or not falling(full):
            raise UserError(
                f"qat of {unit.name}: got {value!r}, allowed: {', '.join(map(str, ALLOWED))}, or a mapping of format, "
                "steps (an integer from 1), lr (a number above 0) and schedule (falling bit-widths above the format's, at most 8 and fewer than steps, such as [8, 6])"
            )
        if full["format"] == formats.FLOAT:
            return None
        full["schedule"] = list(full["schedule"])
        short = {key: part for key, part in full.items() if part not in (DEFAULTS.get(key), [])}
        return full["format"] if set(short) == {"format"} else dict(sorted(short.items()))

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Train all layers together on their levels towards the outputs the draft had, without labels; levels hold from then on."""
        plans = {name: DEFAULTS | (value if isinstance(value, Mapping) else {"format": value}) for name, value in choices.items()}
        layers = {full: plan for name, plan in plans.items() for full, _ in draft.parts(name)}
        if layers:
            few = reads_few(draft.model, layers, draft.example)
            levels = {full: Levels(draft.model.get_submodule(full), plan["format"], full in few) for full, plan in layers.items()}
            with torch.enable_grad():
                widths = {full: plan["schedule"] for full, plan in layers.items()}
                steps, lr = max(plan["steps"] for plan in plans.values()), min(plan["lr"] for plan in plans.values())
                learn(draft, levels, widths, steps, lr)
            for full, level in levels.items():
                draft.masks[full] = draft.masks.get(full, torch.ones_like(draft.model.get_submodule(full).weight))
                draft.projections[full] = level.project
        for name, plan in plans.items():
            insists = (
                {"fallback": "never"} if plan["format"] == "w4" else {}
            )  # levels of four bits are learnt, however few weights share one
            draft.bits[name] = {"format": plan["format"], "rounding": "nearest", "equalise": "never", **insists}


def valid(key: str, value: Any) -> bool:
    """Whether a value is allowed for a key."""
    if key == "format":
        return isinstance(value, int | str) and not isinstance(value, bool) and value in ALLOWED
    if key == "schedule":
        return isinstance(value, list | tuple) and all(isinstance(bits, int) and not isinstance(bits, bool) for bits in value)
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
    return number and (key == "lr" or isinstance(value, int))


def falling(full: Mapping[str, Any]) -> bool:
    """Whether the widths of a schedule fall from 8 or less to above the format's own, and there is a step for each."""
    if not full["schedule"]:
        return True
    if full["steps"] <= len(full["schedule"]):
        return False
    widths = [*full["schedule"], formats.parse(full["format"]).stored]
    return widths[0] <= 8 and all(one > other for one, other in zip(widths, widths[1:], strict=False))


class Levels(nn.Module):
    """A parametrisation: a weight as the integers of its format give it back. ``steps``: (outputs, blocks)."""

    def __init__(self, layer: nn.Module, value: Any, few: bool) -> None:
        super().__init__()
        form, inputs = formats.parse(value), layer.weight[0].numel()
        in_blocks = form.stored == 4 and (few and isinstance(layer, nn.Linear) or not form.integer)
        self.block = formats.block_of(inputs) if in_blocks else inputs
        self.own, self.reads_bytes = form.stored, form.integer
        self.steps = nn.Parameter(torch.empty(0))
        self.widen(layer.weight.detach(), self.own)

    @torch.no_grad()
    def widen(self, weight: Tensor, bits: int) -> None:
        """Have levels of ``bits``, and steps that fit ``weight``."""
        self.high = 2 ** (bits - 1) - 1
        top = self.parts(weight).abs().amax(-1).clamp_min(1e-12) / self.high
        errors = torch.stack([(self.rounded(weight, top * share) - self.parts(weight)).square().sum(-1) for share in SHARES])
        self.steps.data = top * torch.tensor(SHARES)[errors.argmin(0)]

    def parts(self, weight: Tensor) -> Tensor:
        """(outputs, blocks, inputs of a block)."""
        return weight.reshape(len(weight), -1, self.block)

    def rounded(self, weight: Tensor, steps: Tensor) -> Tensor:
        """The parts of a weight on their levels; gradients pass straight through the rounding, and reach the steps (LSQ, eq. 3)."""
        wide = steps[..., None].clamp_min(1e-12)
        exact = self.parts(weight) / wide
        whole = exact + (exact.round() - exact).detach()
        return whole.clamp(-self.high, self.high) * wide

    def forward(self, weight: Tensor) -> Tensor:
        return self.rounded(weight, self.steps).reshape(weight.shape)

    def project(self, weight: Tensor) -> Tensor:
        """The nearest weight on the levels."""
        return self.rounded(weight, self.steps).reshape(weight.shape).detach()


def bytes_read(layer: nn.Module, args: tuple) -> tuple:
    """A hook: what a layer reads as unsigned bytes give it back, over the range of the batch (Jacob et al., eq. 1)."""
    x = args[0]
    low, high = min(float(x.detach().min()), 0.0), max(float(x.detach().max()), 0.0)
    step = max((high - low) / 255, 1e-12)
    return (x + (x.detach() / step).round() * step - x.detach(), *args[1:])


@torch.no_grad()
def left(model: nn.Module, lessons: list[tuple[Inputs, Any]]) -> float:
    """The mean gap on all lessons."""
    return sum(float(gap(call(model, inputs), wanted)) for inputs, wanted in lessons) / len(lessons)


def width_at(schedule: Sequence[int], own: int, step: int, steps: int) -> int:
    """The bits of weights at ``step``, from 0, of ``steps``: each width of the schedule, then the format's own, for an equal part."""
    widths = [*schedule, own]
    return widths[min(step * len(widths) // steps, len(widths) - 1)]


def learn(draft: Draft, levels: Mapping[str, Levels], widths: Mapping[str, Sequence[int]], steps: int, lr: float) -> None:
    """Train ``draft.model`` towards the outputs it had; its weights lie on their levels afterwards. ``widths``: {layer: bit-widths before
    its own}; only states in which every layer has its own width are kept."""
    teacher = copy.deepcopy(draft.model)
    with torch.no_grad():
        lessons: list[tuple[Inputs, Any]] = [(inputs, call(teacher, inputs)) for inputs in draft.samples]
    model = draft.model
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    handles = []
    for name, level in levels.items():
        layer = model.get_submodule(name)
        parametrize.register_parametrization(layer, "weight", level, unsafe=True)
        if level.reads_bytes:
            handles.append(layer.register_forward_pre_hook(bytes_read))
    trainable = [parameter.requires_grad_(True) for parameter in model.parameters() if parameter.is_floating_point()]
    now = dict.fromkeys(levels, 0)
    for name, level in levels.items():
        now[name] = width_at(widths[name], level.own, 0, steps)
        if now[name] != level.own:
            level.widen(model.get_submodule(name).parametrizations.weight.original, now[name])
    optimizer = optimizing.relative(trainable, lr)  # a weight must be able to move by a level, which is a share of its size too
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, state = float("inf"), {}
    for step in range(steps):
        inputs, wanted = lessons[step % len(lessons)]
        for name, level in levels.items():
            if now[name] != (bits := width_at(widths[name], level.own, step, steps)):
                now[name] = bits
                before = optimizing.size_of(level.steps)
                level.widen(model.get_submodule(name).parametrizations.weight.original, bits)
                optimizing.rescale(optimizer, schedule, level.steps, optimizing.size_of(level.steps) / before)
        optimizer.zero_grad()
        loss = gap(call(model, inputs), wanted)
        if loss.requires_grad:
            loss.backward()
            nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        schedule.step()
        for name in levels:  # zeros of a sparse layer stay zero, and round to zero
            if name in draft.masks:
                model.get_submodule(name).parametrizations.weight.original.data.mul_(draft.masks[name])
        final = all(now[name] == level.own for name, level in levels.items())
        if final and (step + 1) % max(steps // LOOKS, 1) == 0 or step + 1 == steps:
            found = left(model, lessons)
            if found < best or not state:
                best, state = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(state)
    for handle in handles:
        handle.remove()
    optimizer.zero_grad(set_to_none=True)
    for name in levels:
        parametrize.remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags[name])
