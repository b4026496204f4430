"""Low rank: replace a layer by a chain of thinner ones whose product is close to it.

Value: the share of the full rank that is kept, a float in (0, 1], or "evbmf". Methods (an option of the space):

- ``auto``: linear layers and 1x1 convolutions by truncated SVD, other convolutions by Tucker-2 over the channel axes (Kim et al.
  2016, https://arxiv.org/abs/1511.06530, section 3.1);
- ``whitened``: SVD of the weight times the square root of its inputs' second moments, so that a singular value is what its
  removal costs in the outputs (Wang et al. 2025, SVD-LLM, https://arxiv.org/abs/2403.07378, section 3.1); a convolution
  becomes one with fewer outputs and a 1x1 one (Zhang et al. 2015, https://arxiv.org/abs/1505.06798, section 3.1);
- ``spatial``: a k x 1 convolution and a 1 x k one (Jaderberg et al. 2014, https://arxiv.org/abs/1405.3866, scheme 2);
- ``cp``: four convolutions, 1x1, k x 1 and 1 x k on single channels, 1x1 (Lebedev et al. 2015, https://arxiv.org/abs/1412.6553,
  section 3.2); here a share of 1 is the rank at which the chain is as large as the layer.

The rank follows the share (``by: share``), or is the least that holds the share of the squared singular values (``by: energy``), of each layer
or, with ``scope: global``, of all layers with the same value together: each layer's squares are divided by their sum, and the least of all go;
"evbmf" is the rank of variational Bayes (Nakajima et al. 2013), which needs no share. A factorisation that would not be smaller
than the layer is not made.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import lowrank
from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure

METHODS = ("auto", "whitened", "spatial", "cp")
BY = ("share", "energy")
SCOPES = ("layer", "global")
#: how a global share reaches a layer: as the least square, of a sum of one, that stays
ABOVE = "above"
EVBMF = "evbmf"
ROUND_TO = 8


class Member:
    """Low-rank factorisation; see the module."""

    order = 40
    by_weights = True
    values = (1.0, 0.5, 0.25)

    def __init__(self, method: str = "auto", by: str = "share", scope: str = "layer") -> None:
        if method not in METHODS:
            raise UserError(f"rank: method is {method!r}, allowed: {', '.join(METHODS)}")
        if by not in BY:
            raise UserError(f"rank: by is {by!r}, allowed: {', '.join(BY)}")
        if method == "cp" and by != "share":
            raise UserError("rank: method cp has no singular values, so by is 'share' only")
        if scope not in SCOPES or scope == "global" and by != "energy":
            raise UserError(f"rank: scope is {scope!r} with by {by!r}, allowed: layer, or global with by 'energy'")
        self.method, self.by, self.scope = method, by, scope

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per linear layer and per ungrouped two-dimensional convolution with at least 16 channels each way. A tied
        weight would be stored twice, and a weight that other code reads has to stay where it is: both are left alone."""
        tied = {parameter.rpartition(".")[0] for names in structure.tied for parameter in names}
        return {
            name: Unit(name, (name,))
            for name, layer in structure.layers.items()
            if name not in tied
            and layer.called
            and layer.kind in ("Linear", "Conv2d")
            and layer.groups == 1
            and min(layer.out, layer.inputs) >= 16
        }

    def effective(self, unit: Unit, value: Any) -> Any:
        """A float for what ``auto`` does by share, else {"method", "by", "share", perhaps "scope": "global"} or {"method", "share": "evbmf"}."""
        told = dict(value) if isinstance(value, Mapping) else {"share": value, "method": self.method, "by": self.by, "scope": self.scope}
        share, method, by, scope = told.get("share"), told.get("method", "auto"), told.get("by", "share"), told.get("scope", "layer")
        number = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1
        named = isinstance(share, str) and share == EVBMF and method != "cp"
        fits = method in METHODS and by in BY and (scope == "layer" or scope == "global" and by == "energy" and method != "cp")
        if not (number or named) or set(told) - {"share", "method", "by", "scope"} or not fits:
            raise UserError(f"rank of {unit.name}: got {value!r}, allowed: a share of the full rank in (0, 1], or {EVBMF!r} (not with cp)")
        if named:
            return {"method": method, "share": EVBMF}
        if share == 1:
            return None
        if by == "share":
            return float(share) if method == "auto" else {"method": method, "share": float(share)}
        return {"by": by, "method": method, **({"scope": scope} if scope == "global" else {}), "share": float(share)}

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Put a chain in the place of each layer that has a smaller form; a note for the others."""
        present = {name: value for name, value in choices.items() if draft.has(name)}
        whitened = [name for name, value in present.items() if isinstance(value, Mapping) and value["method"] == "whitened"]
        known = lowrank.grams(draft.model, whitened, draft.samples) if whitened else {}
        plans = {name: value if isinstance(value, Mapping) else {"share": value, "method": "auto"} for name, value in present.items()}
        plans |= global_plans(draft.model, {name: plan for name, plan in plans.items() if plan.get("scope") == "global"}, known)
        for name, told in plans.items():
            layer = draft.model.get_submodule(name)
            chain = factorise(layer, told["share"], told["method"], told.get("by", "share"), known.get(name))
            if chain is None:
                draft.notes.append(f"rank: {name} kept whole, {told.get('told', told['share'])} of its rank has no smaller form")
            else:
                draft.replace(name, chain)


def global_plans(model: nn.Module, plans: Mapping[str, Mapping[str, Any]], grams: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """{layer: its plan, the share being the least square that stays} of plans that hold a share of the energy of all layers together."""
    found: dict[str, dict[str, Any]] = {}
    for plan in {repr(sorted(plan.items())): plan for plan in plans.values()}.values():
        names = [name for name, own in plans.items() if own == plan]
        matrices = [one for name in names for one in unfoldings(model.get_submodule(name), plan["method"], grams.get(name))]
        squares = torch.cat([torch.empty(0, dtype=torch.float64), *map(energies, matrices)]).sort().values
        gone = int((squares.cumsum(0) <= (1 - plan["share"]) * len(matrices)).sum())
        least = float(squares[gone - 1]) if gone else -1.0
        found |= {name: {"method": plan["method"], "by": ABOVE, "share": least, "told": plan["share"]} for name in names}
    return found


def unfoldings(layer: nn.Module, method: str, gram: Tensor | None) -> list[Tensor]:
    """The matrices whose singular values a method cuts; none for a layer that it leaves whole."""
    weight = layer.weight.detach()
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return []
    if method == "whitened":
        return [weight.flatten(1).double() @ root_of(layer, gram)[0]]
    if isinstance(layer, nn.Linear) or max(layer.kernel_size) == 1:
        return [weight.flatten(1)]
    return [upright(weight)] if method == "spatial" else [weight.flatten(1), weight.transpose(0, 1).flatten(1)]


def energies(matrix: Tensor) -> Tensor:
    """Squared singular values, descending, as shares of their sum, float64."""
    squares = torch.linalg.svdvals(matrix.double()).square()
    return squares / squares.sum().clamp_min(1e-300)


def root_of(layer: nn.Module, gram: Tensor | None) -> tuple[Tensor, Tensor]:
    """(root, its inverse) of the second moments of what a layer reads; without them, the identity."""
    inputs = layer.weight[0].numel()
    return lowrank.whitener(torch.ones(inputs, dtype=torch.float64) if gram is None else gram)


def factorise(layer: nn.Module, share: float | str, method: str, by: str = "share", gram: Tensor | None = None) -> nn.Sequential | None:
    """The chain, or None where it would hold at least as many weights as the layer, or pads with something else than zeros.
    ``gram``: second moments of what the layer reads, for ``whitened``; without them nothing is whitened."""
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        return None  # what lies outside the image would have to be factorised too
    weight, plain = layer.weight.detach(), isinstance(layer, nn.Linear)
    if method == "whitened":
        chain = whitened(layer, share, by, gram)
    elif plain or max(layer.kernel_size) == 1:
        rank = chosen(weight.flatten(1), share, by)
        chain = svd_linear(layer, rank) if plain else svd_pointwise(layer, rank)
    elif method == "spatial":
        chain = spatial(layer, chosen(upright(weight), share, by))
    elif method == "cp":
        chain = cp(layer, rank_of(share, weight.numel() // sum(weight.shape)))
    else:
        unfolded = weight.flatten(1), weight.transpose(0, 1).flatten(1)
        chain = tucker2(layer, *(chosen(matrix, share, by, full=len(matrix)) for matrix in unfolded))
    size = sum(part.weight.numel() for part in chain)
    return chain if size < weight.numel() else None


def rank_of(share: float, full: int) -> int:
    """Rank rounded to the kernels' step, at least 1 and at most full."""
    return rounded(share * full, full)


def rounded(rank: float, full: int) -> int:
    return max(1, min(full, max(ROUND_TO, round(rank / ROUND_TO) * ROUND_TO)))


def chosen(matrix: Tensor, share: float | str, by: str, full: int | None = None) -> int:
    """The rank for a matrix; ``full``: what a share of 1 means, the smaller side if not given."""
    full = min(matrix.shape) if full is None else full
    if share == EVBMF:
        return rounded(lowrank.evbmf_rank(matrix), full)
    if by == ABOVE:
        return rounded(int((energies(matrix) > share).sum()), full)
    if by == "energy":
        return rounded(lowrank.energy_rank(torch.linalg.svdvals(matrix), share), full)
    return rank_of(share, full)


def halves(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(m, n) -> (m, rank), (rank, n): the best approximation in the Frobenius norm, its weight shared evenly."""
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, root[:, None] * right[:rank]


def whitened(layer: nn.Module, share: float | str, by: str, gram: Tensor | None) -> nn.Sequential:
    """The chain that is nearest to the layer on the inputs whose second moments are ``gram``."""
    matrix = layer.weight.detach().flatten(1).double()
    root, inverse = root_of(layer, gram)
    rank = chosen(matrix @ root, share, by)
    left, right = halves(matrix @ root, rank)
    left, right = left.to(layer.weight.dtype), (right @ inverse).to(layer.weight.dtype)
    if isinstance(layer, nn.Linear):
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
        return filled((first, right), (second, left), bias=layer.bias)
    first = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, layer.stride, layer.padding, layer.dilation, bias=False)
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return filled((first, right.view(rank, *layer.weight.shape[1:])), (second, left[:, :, None, None]), bias=layer.bias)


def svd_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """Two linear layers, inputs to ``rank`` to outputs, by the singular value decomposition."""
    left, right = halves(layer.weight.detach(), rank)
    first = nn.Linear(layer.in_features, rank, bias=False)
    second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    return filled((first, right), (second, left), bias=layer.bias)


def svd_pointwise(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Two 1x1 convolutions; the first has the stride."""
    left, right = halves(layer.weight.detach().flatten(1), rank)
    first = nn.Conv2d(layer.in_channels, rank, 1, layer.stride, layer.padding, bias=False)
    second = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    return filled((first, right[:, :, None, None]), (second, left[:, :, None, None]), bias=layer.bias)


def spatial(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """A k x 1 and a 1 x k convolution (Jaderberg et al. 2014, https://arxiv.org/abs/1405.3866, scheme 2), the best of that rank by the
    singular
    value decomposition."""
    out, inputs, height, width = layer.weight.shape
    left, right = halves(upright(layer.weight.detach()), rank)  # (inputs * height, rank), (rank, out * width)
    stride, dilation = layer.stride, layer.dilation
    above, beside = (layer.padding, layer.padding) if isinstance(layer.padding, str) else ((layer.padding[0], 0), (0, layer.padding[1]))
    first = nn.Conv2d(inputs, rank, (height, 1), (stride[0], 1), above, (dilation[0], 1), bias=False)
    second = nn.Conv2d(rank, out, (1, width), (1, stride[1]), beside, (1, dilation[1]), bias=layer.bias is not None)
    down = left.view(inputs, height, rank).permute(2, 0, 1)[..., None]
    across = right.view(rank, out, width).permute(1, 0, 2)[:, :, None]
    return filled((first, down), (second, across), bias=layer.bias)


def upright(weight: Tensor) -> Tensor:
    """(out, inputs, height, width) -> (inputs * height, out * width): what is done down a column, and what across."""
    out, inputs, height, width = weight.shape
    return weight.permute(1, 2, 0, 3).reshape(inputs * height, out * width)


def cp(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """Four convolutions, 1x1, k x 1 and 1 x k on single channels, 1x1: ``rank`` terms of a canonical polyadic decomposition (Lebedev et
    al. 2015,
    https://arxiv.org/abs/1412.6553, section 3.2)."""
    import tensorly
    from tensorly.decomposition import parafac

    with tensorly.backend.backend_context("pytorch", local_threadsafe=True):
        weights, (outs, ins, downs, acrosses) = parafac(
            layer.weight.detach().double(), rank, n_iter_max=60, init="svd", tol=1e-6, random_state=0, normalize_factors=False
        )
    (height, width), (tall, wide), (down, right) = layer.kernel_size, layer.stride, layer.dilation
    above, beside = (layer.padding, layer.padding) if isinstance(layer.padding, str) else ((layer.padding[0], 0), (0, layer.padding[1]))
    first = nn.Conv2d(layer.in_channels, rank, 1, bias=False)
    second = nn.Conv2d(rank, rank, (height, 1), (tall, 1), above, (down, 1), groups=rank, bias=False)
    third = nn.Conv2d(rank, rank, (1, width), (1, wide), beside, (1, right), groups=rank, bias=False)
    last = nn.Conv2d(rank, layer.out_channels, 1, bias=layer.bias is not None)
    kind = layer.weight.dtype
    return filled(
        (first, ins.t()[:, :, None, None].to(kind)),
        (second, downs.t()[:, None, :, None].to(kind)),
        (third, acrosses.t()[:, None, None, :].to(kind)),
        (last, (outs * weights)[:, :, None, None].to(kind)),
        bias=layer.bias,
    )


def tucker2(layer: nn.Conv2d, out_rank: int, in_rank: int) -> nn.Sequential:
    """Three convolutions, 1x1, k x k, 1x1: a Tucker decomposition of the two axes of channels (Kim et al. 2016,
    https://arxiv.org/abs/1511.06530, section 3.1)."""
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
