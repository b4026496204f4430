"""Student: a whole smaller network, of the teacher's own family or from a builder of the user's.

Value, on the unit "": a mapping with any of

- ``width``: the share of every group's channels and heads that stays; ``depth``: the share of the removable blocks, as in Minitron
  (Muralidharan et al. 2024, https://arxiv.org/abs/2407.14679);
- ``bottleneck``: of channels that one layer gives and one layer reads, as inside a residual block, the share that stays besides ``width``; what
  several layers give or read, as the sums between blocks, keeps its own (Radosavovic et al. 2020, https://arxiv.org/abs/2003.13678, section 3.2);
- ``separable: true``: standard convolutions become depthwise and 1x1 ones (Howard et al. 2017, https://arxiv.org/abs/1704.04861,
  section 3.1), each input channel's kernels by their best common one;
- ``kernel``: convolutions with larger kernels keep the middle of them;
- ``early: true``: the first convolution takes twice its steps, so that all after it work on smaller maps;
- ``resolution: 1/k``: the first convolution reads the means of k x k pixels (a share such as 0.5), so that the network sees a smaller image;
  its input keeps its shape (Tan and Le 2019, https://arxiv.org/abs/1905.11946, section 3.2, for resolution as a scale of its own);
- ``branches: b``: convolutions between as many channels as they give become b narrow ones side by side (ResNeXt, Xie et al. 2017,
  https://arxiv.org/abs/1611.05431, figure 3c), so that a stage is b narrow stages whose channels meet again where the width changes. In
  recovery each branch is distilled by itself, to the exact minimum of its squared error to what the teacher gave, then all learn together;
- ``dense: true``: the last stage is dense instead of convolutional: its first layers read the means of as many regions as their kernel has
  taps, one position is left, and of the kernels after them the middle stays (fully connected layers behind convolutions: LeCun et al. 1998,
  "Gradient-based learning applied to document recognition", figure 2);
- ``plain: true``: the projections beside blocks, 1x1 convolutions from which a sum is all that comes, are left out, so that the deeper path is the
  only one ("residual distillation": Li et al. 2020, NeurIPS 33, "Residual Distillation: Towards Portable Deep Neural Networks without Shortcuts");
- ``share: true``: repeated blocks are one block that runs several times (ALBERT, Lan et al. 2020, https://arxiv.org/abs/1909.11942), stored
  once;
- ``activation: relu``: smooth activations (GELU, SiLU, Hardswish, Mish, ELU) become ReLU, which integer kernels take along for nothing
  (the cost of the choice: Howard et al. 2019, https://arxiv.org/abs/1905.02244, section 5.2).

A space may name lists of values for these keys one by one (``knobs``), so that a search decides about each. It starts from the teacher's weights. Or {"builder": name}: what the task's ``students(teacher)`` builds under that name. Either
learns from the teacher in recovery (Hinton et al. 2015, https://arxiv.org/abs/1503.02531).
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autoslim import surgery
from autoslim.blocks import Skip
from autoslim.engine import Draft
from autoslim.errors import Untreatable, UserError
from autoslim.importance import keep_best
from autoslim.interfaces import Unit
from autoslim.structure import HEADS, Group, Structure
from autoslim.techniques._convolutions import cropped, like, separable
from autoslim.techniques._dense import densify
from autoslim.techniques._plain import straighten

ALLOWED = (
    '{"width": share, "depth": share, "bottleneck": share, "separable": true, "kernel": odd number, "early": true, "resolution": 1/2, 1/3 or less, "branches": number from 2, '
    '"dense": true, "plain": true, "share": true, "activation": "relu"} with shares in (0, 1], or {"builder": name}'
)
KEYS = ("width", "depth", "bottleneck", "separable", "kernel", "early", "resolution", "branches", "dense", "plain", "share", "activation")
FLAGS = ("separable", "early", "dense", "plain", "share")
#: channels that a branch keeps at least
NARROWEST = 4
SMOOTH = (nn.GELU, nn.SiLU, nn.Hardswish, nn.Mish, nn.ELU)


class Member:
    """Student networks; see the module."""

    order = 10
    knobs = KEYS
    values = (None, {"width": 0.5, "depth": 1.0}, {"width": 0.5, "depth": 0.5})

    def __init__(self, round_to: int = 8) -> None:
        self.round_to = round_to

    def units(self, structure: Structure) -> dict[str, Unit]:
        """The whole model is one unit, called ""."""
        return {"": Unit("", tuple(structure.layers))}

    def effective(self, unit: Unit, value: Any) -> Any:
        """A mapping of what is changed, None for nothing. Raises UserError."""
        if value is None:
            return None
        if not isinstance(value, Mapping) or not (set(value) <= set(KEYS) or set(value) == {"builder"}):
            raise UserError(f"student: got {value!r}, allowed: {ALLOWED}")
        if "builder" in value:
            return {"builder": str(value["builder"])}
        width, depth, kernel = value.get("width", 1.0), value.get("depth", 1.0), value.get("kernel")
        neck = value.get("bottleneck", 1.0)
        smooth, branches = value.get("activation"), value.get("branches", 1)
        flags = {key: value[key] for key in FLAGS if key in value}
        shares = all(isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1 for share in (width, depth, neck))
        odd = kernel is None or is_count(kernel) and kernel % 2
        fine = value.get("resolution", 1.0)
        plain = (
            smooth in (None, "relu") and is_count(branches) and coarseness(fine) and all(isinstance(flag, bool) for flag in flags.values())
        )
        if not shares or not odd or not plain:
            raise UserError(f"student: got {value!r}, allowed: {ALLOWED}")
        extra = {key: True for key, flag in sorted(flags.items()) if flag} | ({} if kernel is None else {"kernel": kernel})
        extra |= ({"activation": smooth} if smooth else {}) | ({"branches": branches} if branches > 1 else {})
        extra |= ({"resolution": float(fine)} if coarseness(fine) > 1 else {}) | ({"bottleneck": float(neck)} if neck < 1 else {})
        return None if width == depth == 1 and not extra else {"width": float(width), "depth": float(depth), **extra}

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Rebuild the model, or change its forms, then its size. Raises Untreatable where nothing of it applies, UserError for an unknown
        builder."""
        for value in choices.values():
            if "builder" in value:
                draft.rebuild(value["builder"])
                continue
            changed = reshape(draft, value)
            if value.get("plain"):
                changed |= straightened(draft, value)
            if shrinks(value):
                self.shrink(draft, value["width"], value["depth"], value.get("bottleneck", 1.0), changed)
                changed = True
            if value.get("branches"):
                changed |= branch(draft, value["branches"])
            if value.get("dense"):
                changed |= densify(draft)
            if value.get("share"):
                draft.restructure()
                changed |= share(draft)
            if not changed:
                raise Untreatable("student: this network has no layer that these changes apply to")
            draft.restructure()

    def shrink(self, draft: Draft, width: float, depth: float, neck: float, changed: bool) -> None:
        """Remove the last blocks of the list first, then the least important channels of every group."""
        blocks = list(draft.structure.blocks)
        for name in blocks[round(len(blocks) * depth) :]:
            draft.replace(name, Skip(draft.structure.blocks[name].as_tuple))
        chosen = []
        for group in draft.structure.groups.values():
            step = 1 if group.kind == HEADS else self.round_to // math.gcd(self.round_to, group.width)
            share = width * neck if is_inner(group, draft.structure) else width
            kept = min(group.size, -(-round(group.size * share, 6) // step) * step)
            if kept < group.size:
                chosen.append((group, keep_best(draft.model, draft.moments, group, int(kept))))
        if not chosen and depth == 1 and not changed:
            raise Untreatable("student: no group of this network can be made narrower; give builders in the task's students()")
        surgery.apply(draft.model, cut := surgery.plan(chosen, draft.model))
        draft.kept.update(cut)


def straightened(draft: Draft, value: Mapping[str, Any]) -> bool:
    """Leave projections out; whether any was. The structure is looked at again where channels will be cut."""
    changed = straighten(draft)
    if changed and shrinks(value):
        draft.restructure()
    return changed


def shrinks(value: Mapping[str, Any]) -> bool:
    """Whether channels or blocks are cut."""
    return value["width"] < 1 or value["depth"] < 1 or value.get("bottleneck", 1.0) < 1


def is_inner(group: Group, structure: Structure) -> bool:
    """Whether one layer gives a group's channels and one reads them; depthwise convolutions between them do neither."""
    names = [
        (member.module, member.reads)
        for member in group.members
        if member.module in structure.layers and structure.layers[member.module].groups == 1
    ]
    return group.kind != HEADS and sorted(reads for _, reads in set(names)) == [False, True]


def coarseness(resolution: Any) -> int:
    """k of a resolution 1/k; 0 where it is none."""
    if not isinstance(resolution, int | float) or isinstance(resolution, bool) or not 0 < resolution <= 1:
        return 0
    return round(1 / resolution) if abs(1 / resolution - round(1 / resolution)) < 0.05 else 0


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def branch(draft: Draft, count: int) -> bool:
    """Cut convolutions between equal widths into ``count`` narrow ones side by side, which keep the blocks on the diagonal of the weight;
    whether any was cut."""
    found = {
        name: layer
        for name, layer in draft.model.named_modules()
        if isinstance(layer, nn.Conv2d)
        and layer.groups == 1
        and layer.in_channels == layer.out_channels
        and layer.in_channels % count == 0
        and layer.in_channels // count >= NARROWEST
        and not isinstance(layer.padding, str)
    }
    for name, layer in found.items():
        step = layer.in_channels // count
        diagonal = [layer.weight[at : at + step, at : at + step] for at in range(0, layer.in_channels, step)]
        draft.replace(name, like(layer, torch.cat(diagonal), groups=count, padding_mode=layer.padding_mode))
    return bool(found)


def share(draft: Draft) -> bool:
    """Let removable blocks of one form beside each other be one block, the first; whether there were any. ``draft.structure`` must be
    that of its model."""
    alike: dict[tuple[str, str], str] = {}
    again = {}
    for name in draft.structure.blocks:
        module = draft.model.get_submodule(name)
        first = alike.setdefault((name.rpartition(".")[0], form_of(module)), name)
        if first != name:
            again[name] = first
    for name, first in again.items():
        draft.replace(name, draft.model.get_submodule(first))
    return bool(again)


def form_of(module: nn.Module) -> str:
    """The same text for two modules that compute alike but for their weights."""
    return repr(module) + repr([(name, tuple(value.shape)) for name, value in module.state_dict().items()])


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
        if index == 0 and value.get("resolution"):
            side = coarseness(value["resolution"])
            new = nn.Sequential(
                nn.AvgPool2d(side, ceil_mode=True, count_include_pad=False), *(new if isinstance(new, nn.Sequential) else [new])
            )
        if new is not layer:
            changed[name] = new if isinstance(new, nn.Sequential) else nn.Sequential(new)
    if value.get("activation"):
        changed |= {name: nn.ReLU() for name, module in draft.model.named_modules() if isinstance(module, SMOOTH)}
    for name, new in changed.items():
        draft.replace(name, new)
    if changed and shrinks(value):
        draft.restructure()
    return bool(changed)
