"""Low rank: replace a layer by a chain of thinner ones whose product is close to it.

Value: the share of the full rank that is kept, a float in (0, 1]. Linear layers and 1x1 convolutions: truncated SVD. Other
convolutions: Tucker-2 over the channel axes (Kim et al. 2016, https://arxiv.org/abs/1511.06530, section 3.1) or, with
``method: spatial``, a k x 1 convolution followed by a 1 x k one (Jaderberg et al. 2014, https://arxiv.org/abs/1405.3866,
scheme 2). A factorisation that would not be smaller than the layer is not made.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure

METHODS = ("auto", "spatial")
ROUND_TO = 8


class Member:
    """Low-rank factorisation; see the module."""

    order = 40
    values = (1.0, 0.5, 0.25)

    def __init__(self, method: str = "auto") -> None:
        if method not in METHODS:
            raise UserError(f"rank: method is {method!r}, allowed: {', '.join(METHODS)}")
        self.method = method

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per linear layer and per ungrouped two-dimensional convolution with at least 16 channels each way. A
        tied weight would be stored twice and is left alone."""
        tied = {parameter.rpartition(".")[0] for names in structure.tied for parameter in names}
        return {
            name: Unit(name, (name,))
            for name, layer in structure.layers.items()
            if name not in tied and layer.kind in ("Linear", "Conv2d") and layer.groups == 1 and min(layer.out, layer.inputs) >= 16
        }

    def effective(self, unit: Unit, value: Any) -> Any:
        share, method = (value.get("share"), value.get("method")) if isinstance(value, Mapping) else (value, self.method)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1 or method not in METHODS:
            raise UserError(f"rank of {unit.name}: got {value!r}, allowed: a share of the full rank in (0, 1]")
        if share == 1:
            return None
        return float(share) if method == "auto" else {"method": method, "share": float(share)}

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        for name, value in choices.items():
            if not draft.has(name):
                continue
            share, method = (value["share"], value["method"]) if isinstance(value, Mapping) else (value, "auto")
            layer = draft.model.get_submodule(name)
            chain = factorise(layer, share, method)
            if chain is None:
                draft.notes.append(f"rank: {name} kept whole, {share:g} of its rank has no smaller form")
            else:
                draft.replace(name, chain)


def factorise(layer: nn.Module, share: float, method: str) -> nn.Sequential | None:
    """The chain, or None where it would hold at least as many weights as the layer, or pads with something else than zeros."""
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return None  # what lies outside the image would have to be factorised too
    if isinstance(layer, nn.Linear):
        chain = svd_linear(layer, rank_of(share, min(layer.weight.shape)))
    elif max(layer.kernel_size) == 1:
        chain = svd_pointwise(layer, rank_of(share, min(layer.weight.shape[:2])))
    elif method == "spatial":
        out, inputs, height, width = layer.weight.shape
        chain = spatial(layer, rank_of(share, min(out * width, inputs * height)))
    else:
        chain = tucker2(layer, rank_of(share, layer.out_channels), rank_of(share, layer.in_channels))
    size = sum(part.weight.numel() for part in chain)
    return chain if size < layer.weight.numel() else None


def rank_of(share: float, full: int) -> int:
    """Rank rounded to the kernels' step, at least 1 and at most full."""
    return max(1, min(full, max(ROUND_TO, round(share * full / ROUND_TO) * ROUND_TO)))


def halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(m, n) -> (m, rank), (rank, n): the best approximation in the Frobenius norm, its weight shared evenly."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def svd_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    left, right = halves(layer.weight.detach(), rank)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return filled((first, right), (second, left), bias=layer.bias)


def svd_pointwise(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    left, right = halves(layer.weight.detach().flatten(1), rank)
    first = nn.Conv2d(layer.in_channels, rank, 1, layer.stride, layer.padding, bias=False)
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return filled((first, right[:, :, None, None]), (second, left[:, :, None, None]), bias=layer.bias)


def spatial(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    out, inputs, height, width = layer.weight.shape
    matrix = layer.weight.detach().permute(1, 2, 0, 3).reshape(inputs * height, out * width)
    left, right = halves(matrix, rank)  # (inputs * height, rank), (rank, out * width)
    stride, dilation = layer.stride, layer.dilation
    above, beside = (layer.padding, layer.padding) if isinstance(layer.padding, str) else ((layer.padding[0], 0), (0, layer.padding[1]))
    first = nn.Conv2d(inputs, rank, (height, 1), (stride[0], 1), above, (dilation[0], 1), bias=False)
    second = nn.Conv2d(rank, out, (1, width), (1, stride[1]), beside, (1, dilation[1]), bias=layer.bias is not None)
    down = left.view(inputs, height, rank).permute(2, 0, 1)[..., None]
    across = right.view(rank, out, width).permute(1, 0, 2)[:, :, None]
    return filled((first, down), (second, across), bias=layer.bias)


def tucker2(layer: nn.Conv2d, out_rank: int, in_rank: int) -> nn.Sequential:
    import tensorly
    from tensorly.decomposition import partial_tucker

    with tensorly.backend.backend_context("pytorch", local_threadsafe=True):
        (core, (left, right)), _ = partial_tucker(layer.weight.detach(), rank=[out_rank, in_rank], modes=[0, 1], init="svd")
    first = nn.Conv2d(layer.in_channels, in_rank, 1, bias=False)
    middle = nn.Conv2d(in_rank, out_rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
    last = nn.Conv2d(out_rank, layer.out_channels, 1, bias=layer.bias is not None)
    return filled((first, right.t()[:, :, None, None]), (middle, core), (last, left[:, :, None, None]), bias=layer.bias)


def filled(*parts: tuple[nn.Module, Tensor], bias: Tensor | None) -> nn.Sequential:
    """A chain with the given weights; the bias goes to the last part."""
    for module, weight in parts:
        module.weight = nn.Parameter(weight.detach().clone().contiguous())
    if bias is not None:
        parts[-1][0].bias = nn.Parameter(bias.detach().clone())
    return nn.Sequential(*(module for module, _ in parts))
