"""What products do to labels of channels (labels.py): matrix products, attention, convolutions. The contracted channels are read,
and a weight gives its own channels to the result."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from autoslim.inputs import tensors
from autoslim.labels import FIXED, Heads, Sheets, along, axis_of, channels, merged, names, varying, vector

if TYPE_CHECKING:
    from autoslim.flow import Flow


def matrix(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """mm, bmm."""
    flow.give(output, product(flow, args[0], args[1], flow.of(args[0]), flow.of(args[1]), output.shape))


def matrix_plus(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """addmm, baddbmm: a product and what is added to it."""
    sheets = product(flow, args[1], args[2], flow.of(args[1]), flow.of(args[2]), output.shape)
    added = [sheet.expand(output.shape) for sheet in flow.of(args[0])]
    dims = set().union(*(varying(sheet) for sheet in sheets)) if sheets else set()
    flow.give(output, merged(flow.ledger, sheets + [sheet for sheet in added if varying(sheet) & dims]))


def product(flow: "Flow", one: Tensor, other: Tensor, left: Sheets, right: Sheets, shape: torch.Size) -> Sheets:
    """Sheets of one @ other, (..., n, k) @ (..., k, m). The contracted channels meet; if they differ from batch to batch, as
    attention heads do, then a head is a whole."""
    kept: Sheets = []
    first, second = along(left, -1), along(right, -2)
    weight = other if other in flow.state else one if one in flow.state else None
    if first is not None or second is not None:
        first = torch.full(one.shape, FIXED) if first is None else flow.ledger.fold(first, -2)
        second = torch.full(other.shape, FIXED) if second is None else flow.ledger.fold(second, -1)
        first, second = first.narrow(-2, 0, 1).transpose(-1, -2), second.narrow(-1, 0, 1)  # (..., k, 1) each
        flow.ledger.join(first, second)
        if weight is not None:
            flow.read(second if weight is other else first)
        else:
            flow.found.contracted.update(names(first))
            whole = wholes(flow, first, shape) + wholes(flow, second, shape)
            kept += whole[:1]
            if whole:
                behead(flow, whole[0])
    for sheets, dim, near in ((left, -1, -2), (right, -2, -1)):
        for sheet in sheets:
            if dim % sheet.dim() not in varying(sheet):
                kept.append(sheet.narrow(dim, 0, 1).expand(shape))
                if (one if dim == -1 else other) is weight and near % sheet.dim() in varying(sheet):
                    flow.found.writes.update(names(sheet))
    return merged(flow.ledger, kept)


def wholes(flow: "Flow", sheet: Tensor, shape: torch.Size) -> Sheets:
    """Contracted labels (..., k, 1) that vary over the batch as well: one label per batch, in the shape of the product."""
    if not varying(sheet) & set(range(sheet.dim() - 2)):
        return []
    return [flow.ledger.fold(sheet, -2).narrow(-2, 0, 1).expand(shape)]


def behead(flow: "Flow", sheet: Tensor) -> None:
    """Note the heads of a product."""
    flat = sheet[..., 0, 0].reshape(-1)
    flow.found.heads.append(Heads(flow.stack[-1], tuple(dict.fromkeys(flat.tolist()))))


def attention(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Scaled dot product attention: two products with a mask and a softmax between them."""
    query, key, value = args[:3]
    shape = (*query.shape[:-1], key.shape[-2])
    turned = [sheet.transpose(-1, -2) for sheet in flow.of(key)]
    scores = product(flow, query, key.transpose(-1, -2), flow.of(query), turned, torch.Size(shape))
    mask = kwargs.get("attn_mask")
    if mask is None:
        mask = next((given for given in args[3:] if isinstance(given, Tensor)), None)
    if mask is not None:
        scores = merged(flow.ledger, scores + [sheet.expand(shape) for sheet in flow.of(mask) if varying(sheet.expand(shape)) & {0, 1}])
    made = tensors(output)[0]
    blank = torch.empty(shape, device="meta")
    flow.give(made, product(flow, blank, value, scores, flow.of(value), made.shape))


def convolution(flow: "Flow", func: Any, args: tuple, kwargs: dict, output: Any) -> None:
    """Reads along one axis of the weight and writes along the other; a group of a grouped convolution is a whole."""
    x, weight, bias, transposed, groups = args[0], args[1], args[2], bool(args[6]), int(args[8])
    own = flow.of(weight)
    if not own and weight not in flow.state:
        flow.ledger.freeze(flow.of(x), "it is convolved with computed weights")
        return
    writes, reads = (along(own, 1), along(own, 0)) if transposed else (along(own, 0), along(own, 1))
    out = axis_of(writes, 1 if transposed else 0, weight.shape) if groups == 1 or not transposed else None
    given = channels(flow.ledger, flow.of(x), x.shape)
    if groups > 1:
        if out is None or (transposed and groups > 1):
            flow.ledger.freeze(flow.of(x) + own, "grouped transposed convolution")
            return
        made, taken = out.view(groups, -1), given.view(groups, -1)
        if flow.balanced and weight.shape[1] > 1:
            flow.ledger.join(made[:1], made)
            flow.ledger.join(taken, axis_of(reads, 1, weight.shape))
            flow.read(axis_of(reads, 1, weight.shape))
        else:
            flow.ledger.join(made[:, :1], made)
            flow.ledger.join(taken, made[:, :1])
            flow.found.contracted.update(given.tolist())
    else:
        read = axis_of(reads, 0 if transposed else 1, weight.shape)
        flow.ledger.join(given, read)
        flow.read(read)
    flow.found.writes.update(out.tolist())
    for sheet in flow.of(bias):
        flow.ledger.join(sheet, out)
    flow.give(output, [vector(out, 1, output.shape)])
