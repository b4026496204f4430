"""What a distillation pulls a network towards: the original's outputs, as soft class scores or as values."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from autoslim.inputs import tensors

#: how far from one the probabilities of an output may sum that is taken for log-probabilities, as a network with a CTC head gives
NORMALISED = 1e-3


def gap(outputs: Any, reference: Any) -> Tensor:
    """How far outputs are from the original's, a scalar that can be differentiated.

    Class scores, one (n, classes) tensor: the KL divergence from the original's distribution (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531, temperature 1). Anything else: mean squared error of every floating tensor, in units of
    the original's own mean square.
    """
    want = tensors(reference)
    scores = len(want) == 1 and want[0].dim() == 2 and want[0].shape[1] > 1 and want[0].is_floating_point()
    return divergence(outputs, reference, {0: 1} if scores else {})


def divergence(outputs: Any, reference: Any, axes: Mapping[int, int], temperature: float = 1.0, counted: Tensor | None = None) -> Tensor:
    """The mean over all floating tensors of their distance, a scalar that can be differentiated.

    ``axes``: {place among the tensors: axis of its classes}, as :func:`classes` gives them. Those are compared as distributions over their
    classes: T^2 KL(softmax(reference / T), softmax(outputs / T)), mean over all other axes (Hinton et al. 2015, section 2.1: the square
    keeps the size of the gradient while ``temperature`` T changes). ``counted``, of the shape without the axis of classes, says which
    positions take part. Others: squared error in units of the reference's own mean square.
    """
    parts = []
    for place, (got, want) in enumerate(zip(tensors(outputs), tensors(reference), strict=True)):
        if not want.is_floating_point():
            continue
        if place in axes:
            parts.append(softened(got.movedim(axes[place], -1), want.movedim(axes[place], -1), temperature, counted))
        else:
            parts.append(F.mse_loss(got, want) / want.square().mean().clamp_min(1e-12))
    return torch.stack(parts).mean() if parts else torch.zeros(())


def softened(got: Tensor, want: Tensor, temperature: float, counted: Tensor | None) -> Tensor:
    """T^2 times the mean divergence over positions; scores have their classes last."""
    got, want = (F.log_softmax(scores / temperature, -1) for scores in (got, want))
    each = F.kl_div(got, want, reduction="none", log_target=True).sum(-1)
    if counted is not None and counted.shape == each.shape:
        each = each[counted]
    return temperature**2 * each.sum() / max(each.numel(), 1)


def classes(reference: Any, targets: Any = None, told: str = "auto") -> dict[int, int]:
    """{place of a tensor among ``reference``'s: the axis of its classes}; tensors that are left out are values.

    ``told`` "scores": the last axis of what has three, else axis 1; "values": none. "auto" looks at a single tensor: whole-number targets
    are the classes of the axis that they lack; floating targets of the same shape say values, unless they are distributions themselves;
    without such targets, (n, classes) and what is a log-probability along an axis are scores.
    """
    found = tensors(reference)
    if told == "values":
        return {}
    if told == "scores":
        return {place: 2 if one.dim() == 3 else 1 for place, one in enumerate(found) if one.is_floating_point() and one.dim() > 1}
    if len(found) != 1 or not found[0].is_floating_point() or found[0].dim() < 2:
        return {}
    axis = axis_of(found[0], targets)
    return {} if axis is None or found[0].shape[axis] < 2 else {0: axis}


def axis_of(scores: Tensor, targets: Any) -> int | None:
    """The axis of classes of one floating tensor of at least two axes; None for values."""
    if isinstance(targets, Tensor) and targets.is_floating_point() and targets.shape == scores.shape:
        return 1 if scores.dim() == 2 and is_distribution(targets, 1) else None
    ends = (scores.dim() - 1, 1) if scores.dim() == 3 else (1, scores.dim() - 1)
    if isinstance(targets, Tensor) and not targets.is_floating_point():
        for axis in ends:
            if targets.shape == scores.shape[:axis] + scores.shape[axis + 1 :]:
                return axis
    if scores.dim() == 2:
        return 1
    return next((axis for axis in ends if is_distribution(scores.exp(), axis)), None)


def is_distribution(values: Tensor, axis: int) -> bool:
    """Whether values are probabilities along an axis."""
    return bool((values >= 0).all()) and bool(((values.sum(axis) - 1).abs() < NORMALISED).all())


def positions(targets: Any) -> Tensor | None:
    """Which positions of whole-number targets count: those with a class; negative ones are padding (cross-entropy's ignore_index)."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        return None
    return targets >= 0
