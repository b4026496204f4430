"""Student: a whole smaller network, of the teacher's own family or from a builder of the user's.

Value, on the unit "": a mapping with any of

- ``width``: the share of every group's channels and heads that stays; ``depth``: the share of the removable blocks, as in Minitron
  (Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679);
- ``separable: true``: standard convolutions become depthwise and 1x1 ones (Howard et al. 2017, https://arxiv.org/abs/1704.04861,
  section 3.1), each input channel's kernels by their best common one;
- ``kernel``: convolutions with larger kernels keep the middle of them;
- ``early: true``: the first convolution takes twice its steps, so that all after it work on smaller maps.

It starts from the teacher's weights. Or {"builder": name}: what the task's ``students(teacher)`` builds under that name. Either
learns from the teacher in recovery (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import surgery
from autoslim.blocks import Skip
from autoslim.engine import Draft
from autoslim.errors import Untreatable, UserError
from autoslim.importance import keep_best
from autoslim.interfaces import Unit
from autoslim.structure import HEADS, Structure

ALLOWED = (
    '{"width": share, "depth": share, "separable": true, "kernel": odd number, "early": true} with shares in (0, 1], or {"builder": name}'
)
KEYS = {"width", "depth", "separable", "kernel", "early"}


class Member:
    """Student networks; see the module."""

    order = 10
    values = (None, {"width": 0.5, "depth": 1.0}, {"width": 0.5, "depth": 0.5})

    def __init__(self, round_to: int = 8) -> None:
        self.round_to = round_to

    def units(self, structure: Structure) -> dict[str, Unit]:
        """The whole model is one unit, called ""."""
        return {"": Unit("", tuple(structure.layers))}

    def effective(self, unit: Unit, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping) or not (set(value) <= KEYS or set(value) == {"builder"}):
            raise UserError(f"student: got {value!r}, allowed: {ALLOWED}")
        if "builder" in value:
            return {"builder": str(value["builder"])}
        width, depth, kernel = value.get("width", 1.0), value.get("depth", 1.0), value.get("kernel")
        flags = {key: value[key] for key in ("separable", "early") if key in value}
        shares = all(isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1 for share in (width, depth))
        odd = kernel is None or isinstance(kernel, int) and not isinstance(kernel, bool) and kernel > 0 and kernel % 2
        if not shares or not odd or not all(isinstance(flag, bool) for flag in flags.values()):
            raise UserError(f"student: got {value!r}, allowed: {ALLOWED}")
        extra = {key: True for key, flag in sorted(flags.items()) if flag} | ({} if kernel is None else {"kernel": kernel})
        return None if width == depth == 1 and not extra else {"width": float(width), "depth": float(depth), **extra}

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        for value in choices.values():
            if "builder" in value:
                draft.rebuild(value["builder"])
                continue
            changed = reshape(draft, value)
            if value["width"] < 1 or value["depth"] < 1:
                self.shrink(draft, value["width"], value["depth"], changed)
            elif not changed:
                raise Untreatable("student: this network has no convolution that these changes apply to")
            draft.restructure()

    def shrink(self, draft: Draft, width: float, depth: float, changed: bool) -> None:
        """Remove the last blocks of the list first, then the least important channels of every group."""
        blocks = list(draft.structure.blocks)
        for name in blocks[round(len(blocks) * depth) :]:
            draft.replace(name, Skip(draft.structure.blocks[name].as_tuple))
        chosen = []
        for group in draft.structure.groups.values():
            step = 1 if group.kind == HEADS else self.round_to // math.gcd(self.round_to, group.width)
            kept = min(group.size, -(-round(group.size * width, 6) // step) * step)
            if kept < group.size:
                chosen.append((group, keep_best(draft.model, draft.moments, group, int(kept))))
        if not chosen and depth == 1 and not changed:
            raise Untreatable("student: no group of this network can be made narrower; give builders in the task's students()")
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)


def reshape(draft: Draft, value: Mapping[str, Any]) -> bool:
    """Change the forms of the convolutions; whether any changed. The structure is looked at again where channels will be cut."""
    found = {name: draft.model.get_submodule(name) for name, layer in draft.structure.layers.items() if layer.kind == "Conv2d"}
    plain = {name: layer for name, layer in found.items() if layer.padding_mode == "zeros" and not isinstance(layer.padding, str)}
    changed = {}
    for index, (name, layer) in enumerate(plain.items()):
        new = layer
        if index == 0 and value.get("early"):
            new = like(new, new.weight, stride=tuple(2 * step for step in new.stride))
        if "kernel" in value:
            new = cropped(new, value["kernel"])
        if value.get("separable") and new.groups == 1 and min(new.in_channels, new.out_channels) >= 16 and max(new.kernel_size) > 1:
            new = separable(new)
        if new is not layer:
            changed[name] = new if isinstance(new, nn.Sequential) else nn.Sequential(new)
    for name, new in changed.items():
        draft.replace(name, new)
    if changed and (value["width"] < 1 or value["depth"] < 1):
        draft.restructure()
    return bool(changed)


def like(layer: nn.Conv2d, weight: Tensor, **changes: Any) -> nn.Conv2d:
    """A convolution with another weight and other settings."""
    names = ("stride", "padding", "dilation", "groups")
    settings = {name: getattr(layer, name) for name in names} | changes
    groups = settings["groups"]
    new = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]), bias=layer.bias is not None, **settings)
    new.weight.data.copy_(weight.detach())
    if layer.bias is not None:
        new.bias.data.copy_(layer.bias.detach())
    return new.eval()


def cropped(layer: nn.Conv2d, size: int) -> nn.Conv2d:
    """The middle ``size`` x ``size`` of a larger kernel, at the same places; the layer itself where it is no larger."""
    cuts = [max(0, (side - size) // 2) for side in layer.kernel_size]
    if not any(cuts) or any(cut * step > pad for cut, step, pad in zip(cuts, layer.dilation, layer.padding, strict=True)):
        return layer
    tall, wide = (side - 2 * cut for side, cut in zip(layer.kernel_size, cuts, strict=True))
    middle = layer.weight[:, :, cuts[0] : cuts[0] + tall, cuts[1] : cuts[1] + wide]
    return like(layer, middle, padding=tuple(pad - cut * step for pad, cut, step in zip(layer.padding, cuts, layer.dilation, strict=True)))


def separable(layer: nn.Conv2d) -> nn.Sequential:
    """W[o, i] ~ p[o, i] * d[i] for each input channel i: the best in the Frobenius norm (Eckart and Young 1936)."""
    weight = layer.weight.detach()
    left, values, right = torch.linalg.svd(weight.transpose(0, 1).flatten(2), full_matrices=False)  # (in, out, k), one per channel
    root = values[:, :1].sqrt()
    depthwise = (root * right[:, 0]).view(weight.shape[1], 1, *weight.shape[2:])
    points = (root * left[:, :, 0]).t()[:, :, None, None]
    first = nn.Conv2d(
        layer.in_channels, layer.in_channels, layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.in_channels, bias=False
    )
    first.weight.data.copy_(depthwise)
    return nn.Sequential(first, like(layer, points, stride=1, padding=0, dilation=1)).eval()
