"""Codebook: each weight is one of a few values, so that an index of 1 to 8 bits names it.

Value: the bits of an index, 8 to 1 (32 leaves the layer alone), or a mapping of ``bits`` and

- ``levels``: "kmeans" (Han et al. 2016, Deep Compression, https://arxiv.org/abs/1510.00149, section 3: clusters in one dimension, linear
  initialisation, centroids that learn), "pow2" (zero and powers of two, so that products are shifts; Zhou et al. 2017,
  https://arxiv.org/abs/1702.03044, eq. 1 to 3), "symmetric" or "affine" (evenly spaced around 0, or from the least to the greatest weight with 0
  among them; Jacob et al. 2018, https://arxiv.org/abs/1712.05877, eq. 1; of several shrunk ranges the one with the least squared error);
- ``per``: "tensor", "channel" (a table for each output) or a number of consecutive weights of an output that share a table.

Zeros of a sparse layer stay zeros and take part in no cluster. While recovery learns, weights of one cluster of kmeans move together; on
the other levels a weight goes back to the nearest one after each step, so that little is learnt at few bits. The runtimes here compute
with floats; `autoslim pack` stores the indices and the tables.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from autoslim.engine import Draft
from autoslim.errors import UserError
from autoslim.interfaces import Unit
from autoslim.structure import Structure

FLOAT = 32
BITS = (FLOAT, 8, 7, 6, 5, 4, 3, 2, 1)
DEFAULTS = {"levels": "kmeans", "per": "tensor"}
LEVELS = ("kmeans", "pow2", "symmetric", "affine")
ROUNDS, LOWER = 100, 3
#: shares of the range that evenly spaced levels may span
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)


class Member:
    """Weights from a codebook; see the module."""

    order = 55
    by_weights = True
    values = (FLOAT, 6, 4, 3, 2)

    def __init__(self, levels: str = "kmeans", per: str | int = "tensor") -> None:
        self.told = {"levels": levels, "per": per}
        for key, value in self.told.items():
            if not valid(key, value):
                raise UserError(f"codebook: {key} is {value!r}, allowed: {allowed()}")

    def units(self, structure: Structure) -> dict[str, Unit]:
        """One unit per convolution or linear layer."""
        return {name: Unit(name, (name,)) for name, layer in structure.layers.items() if "Conv" in layer.kind or "Linear" in layer.kind}

    def effective(self, unit: Unit, value: Any) -> int | dict[str, Any] | None:
        """The bits of an index, or a mapping of what is no default; None for 32. Raises UserError."""
        full = self.told | (dict(value) if isinstance(value, Mapping) else {"bits": value})
        if "bits" not in full or not all(valid(key, part) for key, part in full.items()):
            raise UserError(f"codebook of {unit.name}: got {value!r}, allowed: {allowed()}")
        if full["bits"] == FLOAT:
            return None
        short = {key: part for key, part in full.items() if part != DEFAULTS.get(key) or self.told.get(key, part) != part}
        return int(full["bits"]) if set(short) == {"bits"} else dict(sorted(short.items()))

    def apply(self, draft: Draft, choices: Mapping[str, Any]) -> None:
        """Put every layer's weights on its levels, zeros of earlier steps kept, and promise both."""
        for name, value in choices.items():
            plan = DEFAULTS | (value if isinstance(value, Mapping) else {"bits": value})
            for full, layer in draft.parts(name):
                mask = draft.masks.get(full, torch.ones_like(layer.weight))
                coded, keep = code(layer.weight.detach(), mask != 0, plan)
                layer.weight.data.copy_(coded)
                draft.masks[full] = mask  # a layer with a mask is not solved anew
                draft.projections[full] = keep


def valid(key: str, value: Any) -> bool:
    """Whether a value is allowed for a key."""
    if key == "bits":
        return value in BITS and isinstance(value, int) and not isinstance(value, bool)
    if key == "levels":
        return value in LEVELS
    return key == "per" and (value in ("tensor", "channel") or isinstance(value, int) and not isinstance(value, bool) and value >= 8)


def allowed() -> str:
    """What a value may be, for messages."""
    return (
        f"bits of an index ({', '.join(map(str, BITS))}), or a mapping of bits, levels ({', '.join(LEVELS)}) and "
        "per (tensor, channel or a number of weights from 8)"
    )


def code(weight: Tensor, live: Tensor, plan: Mapping[str, Any]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """(coded weight, what keeps it so while it learns). ``live`` is False where a weight is zero and stays so."""
    table, there = tables_of(weight, plan["per"]), tables_of(live, plan["per"])
    if plan["levels"] == "pow2":
        coded = back(powers(table, there, plan["bits"]) * there, weight)
        return coded, lambda changed: coded
    if plan["levels"] in ("symmetric", "affine"):
        step, low, high = grid(table, there, plan["bits"], plan["levels"] == "affine")

        def even_again(changed: Tensor) -> Tensor:
            return back(on_grid(tables_of(changed.detach(), plan["per"]), step, low, high) * there, changed)

        return even_again(weight), even_again
    index = clusters(table, there, 2 ** plan["bits"])

    def together(changed: Tensor) -> Tensor:
        values = tables_of(changed.detach(), plan["per"])
        return back(means(values, there, index, 2 ** plan["bits"]).gather(1, index) * there, changed)

    return together(weight), together


def tables_of(weight: Tensor, per: str | int) -> Tensor:
    """(tables, weights of each), the weights that share a table in one row; the last row of an output is padded with zeros."""
    if per == "tensor":
        return weight.reshape(1, -1)
    rows = weight.flatten(1)
    if per == "channel":
        return rows
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % per)).reshape(-1, per)


def back(table: Tensor, weight: Tensor) -> Tensor:
    """The inverse of :func:`tables_of`, in the shape of ``weight``."""
    return table.reshape(len(weight), -1)[:, : weight[0].numel()].reshape(weight.shape).to(weight.dtype) + 0.0  # no negative zeros


def clusters(table: Tensor, live: Tensor, count: int) -> Tensor:
    """(tables, weights) index of each weight's cluster, by Lloyd's iterations from evenly spaced centroids (Han et al., section 3.2) and
    from quantiles; for each table the better of the two."""
    ranked = table.masked_fill(~live, torch.inf).sort(1).values
    alive = live.sum(1, keepdim=True)
    starts = even(ranked, alive, count), quantiles(ranked, alive, count)
    (one, first), (other, second) = (lloyd(ranked, alive, start) for start in starts)
    bounds = torch.where((first >= second)[:, None], one, other)
    return torch.searchsorted(bounds.contiguous(), table.contiguous())


def even(ranked: Tensor, alive: Tensor, count: int) -> Tensor:
    """(tables, count) centroids evenly spaced between the smallest and the largest of the first ``alive`` weights."""
    low, high = ranked[:, :1], ranked.gather(1, (alive - 1).clamp_min(0))
    places = torch.linspace(0, 1, count, dtype=ranked.dtype)
    return torch.where(alive > 0, low + (high - low) * places, 0.0)


def quantiles(ranked: Tensor, alive: Tensor, count: int) -> Tensor:
    """(tables, count) centroids that have equally many weights between them."""
    places = (alive * (torch.arange(count) + 0.5) / count).long().clamp_max(ranked.shape[1] - 1)
    return ranked.gather(1, places).nan_to_num(posinf=0.0)


def lloyd(ranked: Tensor, alive: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """((tables, count - 1) bounds between clusters, (tables,) how much of the sum of squares they explain). ``ranked`` weights, dead ones
    infinite at the end: with their running sums a round costs no more than looking up the bounds."""
    sums = torch.nn.functional.pad(ranked.double().masked_fill(ranked == torch.inf, 0.0).cumsum(1), (1, 0))
    ends = torch.zeros_like(alive), alive
    edges, explained = None, torch.zeros(len(ranked), dtype=torch.float64)
    for _ in range(ROUNDS):
        bounds = ((centres[:, 1:] + centres[:, :-1]) / 2).contiguous()
        inner = torch.minimum(torch.searchsorted(ranked, bounds, right=True), alive)
        found = torch.cat([ends[0], inner, ends[1]], 1)
        sizes, totals = found.diff(dim=1), sums.gather(1, found).diff(dim=1)
        explained = (totals.square() / sizes.clamp_min(1)).sum(1)
        if edges is not None and torch.equal(found, edges):
            break
        edges = found
        centres = torch.where(sizes > 0, totals / sizes.clamp_min(1), centres.double()).to(ranked.dtype).sort(1).values
    return bounds, explained


def means(table: Tensor, live: Tensor, index: Tensor, count: int) -> Tensor:
    """(tables, count) mean of the live weights of each cluster; 0 of an empty one."""
    shape = len(table), count
    sums = torch.zeros(shape, dtype=torch.float64).scatter_add_(1, index, (table * live).double())
    sizes = torch.zeros(shape, dtype=torch.float64).scatter_add_(1, index, live.double())
    return (sums / sizes.clamp_min(1)).to(table.dtype)


def grid(table: Tensor, live: Tensor, bits: int, affine: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(step, least, greatest integer), (tables, 1) each, of evenly spaced levels. Symmetric ones are 2^bits - 1, and with one bit plus and minus
    the mean magnitude (Rastegari et al. 2016, https://arxiv.org/abs/1603.05279, eq. 6), told as half steps; affine ones 2^bits."""
    values = table * live
    if bits == 1 and not affine:
        mean = values.abs().sum(1, keepdim=True) / live.sum(1, keepdim=True).clamp_min(1)
        return mean.clamp_min(1e-30), torch.full_like(mean, torch.nan), torch.ones_like(mean)
    bottom, top = values.amin(1, keepdim=True).clamp_max(0), values.amax(1, keepdim=True).clamp_min(0)
    tried, errors = [], []
    for share in SHARES:
        if affine:
            step = ((top - bottom) * share / (2**bits - 1)).clamp_min(1e-30)
            low = (bottom * share / step).round()
            high = low + 2**bits - 1
        else:
            high = torch.full_like(top, 2 ** (bits - 1) - 1)
            step, low = (torch.maximum(top, -bottom) * share / high).clamp_min(1e-30), -high
        tried.append(torch.stack([step, low, high]))
        errors.append((on_grid(values, step, low, high) * live - values).square().sum(1))
    best = torch.stack(errors).argmin(0)
    step, low, high = torch.stack(tried)[best, :, torch.arange(len(table))].unbind(1)
    return step, low, high


def on_grid(values: Tensor, step: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values, (tables, weights), at their nearest levels; a least integer that is not a number means plus or minus one step."""
    signs = torch.where(values < 0, -step, step)
    return torch.where(low.isnan(), signs, (values / step).round().clamp(low.nan_to_num(), high) * step)


def powers(table: Tensor, live: Tensor, bits: int) -> Tensor:
    """The nearest of zero and plus or minus 2^top .. 2^(top - 2^(bits-1) + 2): 2^bits - 1 levels. ``top`` is that of each table's largest
    weight (Zhou et al., eq. 2) or, where large weights are few, the one of LOWER below it that leaves the least error. One bit: plus or
    minus one power, the nearest to the mean magnitude."""
    sizes = (table * live).abs().double()
    if bits == 1:
        scale = sizes.sum(1, keepdim=True) / live.sum(1, keepdim=True).clamp_min(1)
        power = torch.exp2(scale.clamp_min(1e-30).log2().round())
        return torch.where(table < 0, -power, power)
    top = (sizes.amax(1, keepdim=True).clamp_min(1e-30) * 4 / 3).log2().floor()  # eq. 2
    made = torch.stack([nearest(sizes, torch.exp2(top - down - torch.arange(2 ** (bits - 1) - 2, -1, -1))) for down in range(LOWER + 1)])
    best = (made - sizes).square().sum(2).argmin(0)
    return made[best, torch.arange(len(sizes))] * table.sign()


def nearest(sizes: Tensor, levels: Tensor) -> Tensor:
    """Each of ``sizes``, (tables, weights), rounded to zero or the nearest of its table's ``levels``, (tables, levels) in rising order."""
    full = torch.cat([torch.zeros_like(levels[:, :1]), levels], 1)
    bounds = ((full[:, 1:] + full[:, :-1]) / 2).contiguous()
    return full.gather(1, torch.searchsorted(bounds, sizes.contiguous()))
