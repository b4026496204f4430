"""Convolutions in other forms, from the weights that they have."""

from typing import Any

import torch
from torch import Tensor, nn


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
