"""The option database: what every pair of bits and zeros, at every rank, does to the outputs of each layer, from calibration samples alone.

A layer's options are rounded and pruned together, column by column, each error spread over the columns to its right by the inverse of the
second moments of what the layer reads (Frantar & Alistarh 2023, SparseGPT, https://arxiv.org/abs/2301.00774, algorithm 1 and section 3.5,
"joint sparsification and quantization"; a database of layers is the idea of Frantar et al. 2022, SPDY, https://arxiv.org/abs/2201.13096, section
3). The rank is cut first, by the singular values of the whitened weight (Wang et al. 2025, https://arxiv.org/abs/2403.07378, section 3.1); the
second factor is fitted to what became of the first. Layers come one after the other; what belongs to one is forgotten before the next, and
of what it reads only second moments are ever held.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from autoslim import grams
from autoslim.baking import baked
from autoslim.inputs import Inputs
from autoslim.memory import trim
from autoslim.rounding import DAMPING, bounds, scales_of

#: bits of a weight (32: not rounded); shares of zeros and of the full rank, those that the techniques sparsity and rank offer
BITS, SHARES, RANKS = (32, 8, 6, 4, 3, 2), (0.0, 0.5, 0.75, 0.9), (1.0, 0.5, 0.25)
#: columns that are pruned at once (SparseGPT, section 3.2), columns after which errors go to the rest, numbers of a layer's options that are
#: held at once, columns of a Gram matrix that are held in double precision at once, and channels from which a rank is cut
COLUMNS, STEP, HELD, BLOCK, NARROWEST = 128, 32, 1 << 18, 256, 16
#: ridges as shares of the mean diagonal; sums over many rows are not exact in single precision
RIDGES = (1e-6, 1e-4, 1e-2)


@dataclass(frozen=True)
class Options:
    """All options of one layer, each an array (bits, shares, ranks); NaN where a rank would not be smaller than the layer.

    ``error``: squared error of the layer's outputs on the calibration inputs in units of their squares (biases left out). ``weights``: weights
    that are not zero. ``size``: bytes of those as a bitmask and values; steps of integers are not counted.
    """

    layer: str
    bits: tuple[int, ...]
    shares: tuple[float, ...]
    ranks: tuple[float, ...]
    error: np.ndarray
    weights: np.ndarray
    size: np.ndarray

    def rows(self) -> Iterator[dict[str, float | int | str]]:
        """One mapping per option that there is."""
        for place in np.argwhere(np.isfinite(self.error)):
            b, s, r = place
            told = {"layer": self.layer, "bits": self.bits[b], "zeros": self.shares[s], "rank": self.ranks[r]}
            yield told | {"error": float(self.error[b, s, r]), "weights": int(self.weights[b, s, r]), "bytes": int(self.size[b, s, r])}


def database(
    model: nn.Module,
    samples: Sequence[Inputs],
    bits: Sequence[int] = BITS,
    shares: Sequence[float] = SHARES,
    ranks: Sequence[float] = RANKS,
) -> dict[str, Options]:
    """{layer: its options} of the linear layers and convolutions that ``samples``, unlabelled batches, reach; the model is not changed.

    Recurrent layers and cells have one entry per matrix (LAYER.weight_ih_l0: the error is that of the gates before their functions), attention of
    PyTorch one per projection (``separate.py``). Tables, transposed convolutions and the projections of an LSTM's outputs are missing. Raises ValueError for
    options out of range.
    """
    refuse(bits, shares, ranks)
    found: dict[str, Options] = {}
    for name, weight, moments in grams.visit(baked(model, samples[0]), samples):
        found[name] = options(name, weight, moments, tuple(bits), tuple(shares), tuple(ranks))
        trim()  # the C library would hold, in pieces, the most that any layer needed
    return found


def refuse(bits: Sequence[int], shares: Sequence[float], ranks: Sequence[float]) -> None:
    """Raise ValueError for an option that there is not."""
    for name, values, good, allowed in (
        ("bits", bits, lambda x: x == 32 or 2 <= x <= 8, "2 to 8, or 32"),
        ("shares", shares, lambda x: 0 <= x < 1, "a share of zeros from 0 up to below 1"),
        ("ranks", ranks, lambda x: 0 < x <= 1, "a share of the full rank above 0 up to 1"),
    ):
        if wrong := [value for value in values if not good(value)]:
            raise ValueError(f"{name}: got {wrong[0]!r}, allowed: {allowed}")


def options(
    name: str, weight: Tensor, moments: Tensor, bits: tuple[int, ...], shares: tuple[float, ...], ranks: tuple[float, ...]
) -> Options:
    """The options of one layer: ``weight`` (groups, outputs, columns), ``moments`` (groups, columns, columns) of what it reads."""
    shape = len(bits), len(shares), len(ranks)
    lost, weights, stored = (np.zeros(shape) for _ in range(3))
    total = 0.0
    for matrix, gram in zip(weight.double(), moments, strict=True):
        total += float((product(matrix, gram) * matrix).sum())
        upper = spreading(gram).float()
        lower = [rank_of(rank, matrix) if rank < 1 and len(weight) == 1 else 0 for rank in ranks]
        trim()
        first = directions(matrix, gram, max(lower)) if any(lower) else matrix
        trim()
        for place, rank in enumerate(ranks):
            if rank == 1:
                found = whole(matrix, gram, upper, bits, shares)
            elif lower[place]:
                found = thin(matrix, gram, upper, first[: lower[place]], bits, shares)
            else:
                found = (np.nan,) * 3
            for table, part in zip((lost, weights, stored), found, strict=True):
                table[..., place] += part
    return Options(name, bits, shares, ranks, lost / max(total, 1e-30), weights, np.ceil(stored))


def rank_of(share: float, matrix: Tensor) -> int:
    """The rank that a share means; 0 where two factors would not be smaller than the matrix, or it is too narrow."""
    rank = max(1, round(share * min(matrix.shape)))
    return rank if min(matrix.shape) >= NARROWEST and rank * sum(matrix.shape) < matrix.numel() else 0


def spreading(gram: Tensor) -> Tensor:
    """(..., n, n) second moments -> the upper Cholesky factors, in double precision, of their damped inverses; where there is none, the
    identity: no error spreads."""
    factor = damped(gram, DAMPING)
    good = factorised(factor)
    torch.cholesky_inverse(factor, out=factor)
    good &= factorised(factor, upper=True)
    return factor if bool(good.all()) else torch.where(good[..., None, None], factor, torch.eye(gram.shape[-1]).to(factor))


def damped(gram: Tensor, share: float) -> Tensor:
    """A copy of second moments (..., n, n) in double precision, columns first as LAPACK takes them, with a share of their mean diagonal on the
    diagonal."""
    copy = gram.to(torch.float64, copy=True, memory_format=torch.contiguous_format).mT
    diagonal = copy.diagonal(dim1=-2, dim2=-1)
    diagonal += share * diagonal.mean(-1, keepdim=True).clamp_min(1e-12)
    return copy


def factorised(matrix: Tensor, upper: bool = False) -> Tensor:
    """Put the Cholesky factors of symmetric matrices (..., n, n), columns first, in their place, since a second copy of the widest layer's
    would be most of the memory; returns where there are any (...)."""
    failed = torch.empty(matrix.shape[:-2], dtype=torch.int32)
    torch.linalg.cholesky_ex(matrix, upper=upper, out=(matrix, failed))
    return failed == 0


def product(left: Tensor, gram: Tensor) -> Tensor:
    """left (..., n) in double precision times gram (n, n) of any, of which a few columns at a time are made double."""
    return torch.cat([left @ part.double() for part in gram.split(BLOCK, 1)], -1)


def whole(matrix: Tensor, gram: Tensor, upper: Tensor, bits: tuple[int, ...], shares: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """(squared errors, weights that are not zero, bytes) of a matrix (outputs, columns), (bits, shares) each."""
    care = gram.diagonal()
    left, spent, kept = np.empty((3, len(bits), len(shares)))
    for one, some, made in swept(matrix, upper, care, bits, shares):
        change = made - matrix.to(made.dtype)
        left[one, some] = ((change @ gram.to(made.dtype)) * change).sum((1, 2)).double().numpy()
        spent[one, some] = count = (made != 0).sum((1, 2)).numpy()
        kept[one, some] = bytes_of(count, matrix.numel(), bits[one], np.asarray(shares[some]))
    return left, spent, kept


def directions(matrix: Tensor, gram: Tensor, rank: int) -> Tensor:
    """(rank, columns): first factors, the most important directions first, whose outputs are of equal size and do not go together."""
    root = rooted(gram)
    vectors = torch.linalg.svd(matrix @ root, full_matrices=False)[2][:rank]
    return torch.linalg.solve_triangular(root, vectors, upper=False, left=False)


def thin(
    matrix: Tensor, gram: Tensor, upper: Tensor, first: Tensor, bits: tuple[int, ...], shares: tuple[float, ...]
) -> tuple[np.ndarray, ...]:
    """As :func:`whole`, of two factors: ``first`` (rank, columns) of :func:`directions`, and one that is fitted to the outputs of what became
    of it."""
    wanted = product(matrix, gram)
    energy = float((wanted * matrix).sum())
    left, spent, kept = np.empty((3, len(bits), len(shares)))
    numbers = 2 * (first.numel() + wanted.numel() // wanted.shape[1] * len(first))  # both factors, in double precision
    for one, some, made in swept(first, upper, gram.diagonal(), bits, shares, numbers):
        reads = made.double()
        moments = product(reads, gram) @ reads.transpose(1, 2)
        cross = (wanted @ reads.transpose(1, 2)).transpose(1, 2)  # (options, rank, outputs)
        ridge = 1e-6 * moments.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
        second = torch.linalg.solve(moments + ridge[:, None, None] * torch.eye(len(first)).to(moments), cross).transpose(1, 2)
        ends = finished(second, moments, bits[one], shares[some])
        fits = 2 * (ends * cross.transpose(1, 2)).sum((1, 2)) - ((ends @ moments) * ends).sum((1, 2))
        left[one, some] = (energy - fits).clamp_min(0).numpy()
        counts = (made != 0).sum((1, 2)).numpy(), (ends != 0).sum((1, 2)).numpy()
        spent[one, some] = counts[0] + counts[1]
        sizes = zip(counts, (first.numel(), second[0].numel()), strict=True)
        kept[one, some] = sum(bytes_of(count, size, bits[one], np.asarray(shares[some])) for count, size in sizes)
    return left, spent, kept


def rooted(gram: Tensor) -> Tensor:
    """(n, n) lower S with S S^T = gram plus the least of three ridges that makes it positive definite in single precision."""
    for ridge in RIDGES:
        factor = damped(gram, ridge)
        if factorised(factor):
            break
    return factor


def finished(second: Tensor, moments: Tensor, bits: int, shares: tuple[float, ...]) -> Tensor:
    """The second factors (options, outputs, rank) of one width, pruned and rounded, each by the moments of what it reads."""
    steps = None
    if bits != 32:
        cares = moments.diagonal(dim1=1, dim2=2).numpy()
        found = [scales_of(one.numpy(), bits, one.shape[1], care) for one, care in zip(second, cares, strict=True)]
        steps = torch.from_numpy(np.stack(found))[..., 0]
    return sweep(second, spreading(moments), torch.tensor(shares), steps, bits)


def bytes_of(weights: np.ndarray, places: int, bits: int, shares: np.ndarray) -> np.ndarray:
    """Bytes of ``weights`` values of so many bits, with a bit for each of the ``places`` where there are zeros."""
    return (weights * bits + np.where(shares > 0, places, 0)) / 8


def swept(
    matrix: Tensor, upper: Tensor, care: Tensor, bits: tuple[int, ...], shares: tuple[float, ...], numbers: int = 0
) -> Iterator[tuple[int, slice, Tensor]]:
    """(place of the width, slice of the shares, matrices of these options (shares, outputs, columns) in float32), few at a time, so that HELD is
    not passed where one option needs ``numbers``, those of the matrix at least."""
    many = max(1, HELD // max(numbers, matrix.numel()))
    for one, width in enumerate(bits):
        steps = None
        if width != 32:
            steps = torch.from_numpy(scales_of(matrix.numpy(), width, matrix.shape[1], care.numpy()))[:, 0].float()[None]
        for start in range(0, len(shares), many):
            some = slice(start, min(start + many, len(shares)))
            part = torch.tensor(shares[some])
            yield one, some, sweep(matrix.float().expand(len(part), -1, -1), upper.float()[None], part, steps, width)


def sweep(weight: Tensor, upper: Tensor, shares: Tensor, steps: Tensor | None, bits: int) -> Tensor:
    """Prune and round (options, outputs, columns): ``shares`` of zeros (options,), ``steps`` (options or 1, outputs) of the integers.

    ``upper`` (options or 1, columns, columns): the factors of :func:`spreading`. Zeros are chosen in each 128 columns by w^2 / [H^-1]_jj.
    """
    left = weight.transpose(1, 2).contiguous()  # columns first, so that one of them lies together
    made = torch.empty_like(left)
    for start in range(0, left.shape[1], COLUMNS):
        stop = min(start + COLUMNS, left.shape[1])
        scores = left[:, start:stop] / upper[:, start:stop, start:stop].diagonal(dim1=1, dim2=2)[..., None]
        keep = kept(scores.square(), shares)
        for first in range(start, stop, STEP):
            last = min(first + STEP, stop)
            own, places = upper[:, first:last, first:last], slice(first - start, last - start)
            errors = step_on(left[:, first:last], own, keep[:, places], steps, bits, made[:, first:last])
            left[:, last:] -= upper[:, first:last, last:].transpose(1, 2) @ errors
    return made.transpose(1, 2)


def step_on(left: Tensor, upper: Tensor, keep: Tensor, steps: Tensor | None, bits: int, made: Tensor) -> Tensor:
    """Prune and round a few columns (options, columns, outputs) in turn into ``made``; returns their scaled errors, in the same shape."""
    low, high = (0, 0) if steps is None else bounds(bits)
    errors = torch.empty_like(left)
    for column in range(left.shape[1]):
        value = left[:, column]
        target = value if steps is None else (value / steps).round().clamp(low, high) * steps
        made[:, column] = target = target * keep[:, column]
        errors[:, column] = error = (value - target) / upper[:, column, column, None]
        left[:, column:] -= upper[:, column, column:, None] * error[:, None]
    return errors


def kept(scores: Tensor, shares: Tensor) -> Tensor:
    """(options, columns, outputs) scores -> False at each option's share of the lowest; of equal ones all go."""
    flat = scores.flatten(1)
    keep = torch.ones_like(flat, dtype=torch.bool)
    for place, share in enumerate(shares.tolist()):
        if count := round(share * flat.shape[1]):
            keep[place] = flat[place] > flat[place].kthvalue(count).values
    return keep.view_as(scores)
