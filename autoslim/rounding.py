"""Weights to integers: to the nearest, with the error of each column spread over the later ones (GPTQ), or up and down as
the layer's outputs like it best (AdaRound)."""

from collections.abc import Callable

import numpy as np

#: damping of the Gram matrix as a share of its mean diagonal (Frantar et al. 2022, section 3.3, step 3), and columns per block
DAMPING, BLOCK = 0.01, 128
#: damping of the weights that rounded inputs ask for, sweeps of the coordinate descent, and the most that a Gram matrix is shrunk
ALIGNING, SWEEPS, MOST_SHRINKAGE = 0.1, 3, 0.9
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
#: AdaRound: steps, rate, weight of the regulariser, and the stretch of the sigmoid (Nagel et al. 2020, section 3.3)
STEPS, RATE, PRESSURE, STRETCH = 400, 0.02, 0.01, (-0.1, 1.1)


def bounds(bits: int) -> tuple[int, int]:
    """Least and greatest integer: symmetric from bytes on, since kernels multiply them; all sixteen values for four bits."""
    top = (1 << (bits - 1)) - 1
    return (-top, top) if bits >= 8 else (-top - 1, top)


def scales_of(weight: np.ndarray, bits: int, block: int, importance: np.ndarray | None = None, signed: bool = False) -> np.ndarray:
    """(outputs, blocks) steps of a weight (outputs, inputs), one for each ``block`` inputs.

    Eight bits: the largest value. Fewer: of several shrunk ranges, and of those in which the largest value is another level, the one with
    the least squared error, each input weighted with its ``importance`` E[x^2] (inputs,). ``signed`` steps may be negative, so that the extreme value gets the extra negative level.
    """
    low, high = bounds(bits)
    parts = weight.reshape(len(weight), -1, block).astype(np.float64)
    top = np.abs(parts).max(-1)
    if bits >= 8:
        return settled(top / high)
    care = (np.ones(weight.shape[1]) if importance is None else importance).reshape(1, -1, block)
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(-1)[..., None], -1)[..., 0]
    best, least = None, None
    tops = [top / high, extreme / low] if signed else [top / high]
    learnt = [top / level for level in range(1, high)]  # where weights lie on levels already, of which the outermost may be empty
    for candidate in [settled(one) for one in [*(one * share for one in tops for share in SHRINKS), *learnt]]:
        step = candidate[..., None]
        error = (care * np.square(np.clip(np.rint(parts / step), low, high) * step - parts)).sum(-1)
        if best is None:
            best, least = candidate, error
        else:
            better = error < least
            best, least = np.where(better, candidate, best), np.minimum(error, least)
    return best


def settled(scales: np.ndarray) -> np.ndarray:
    """Steps as the file will hold them; 1 where a block is all zeros."""
    kept = scales.astype(np.float32).astype(np.float64)
    return np.where(np.abs(kept) < 1e-12, 1.0, kept)


def nearest(weight: np.ndarray, scales: np.ndarray, bits: int) -> np.ndarray:
    """(outputs, inputs) integers."""
    low, high = bounds(bits)
    return np.clip(np.rint(weight / spread(scales, weight.shape[1])), low, high).astype(np.int8 if bits <= 8 else np.int16)


def spread(scales: np.ndarray, inputs: int) -> np.ndarray:
    """(outputs, inputs) steps from (outputs, blocks)."""
    return np.repeat(scales, inputs // scales.shape[1], axis=1)


def gptq(weight: np.ndarray, scales: np.ndarray, bits: int, gram: np.ndarray, damping: float = DAMPING) -> np.ndarray:
    """(outputs, inputs) integers by GPTQ (Frantar et al. 2022, https://arxiv.org/abs/2210.17323, algorithm 1): columns in turn, each
    one's error moved to the columns after it by the inverse of ``gram`` = X^T X (inputs, inputs).

    Columns with the largest diagonal go first; the steps are fixed beforehand. Rounds to the nearest if the matrix is singular.
    """
    low, high = bounds(bits)
    inputs = weight.shape[1]
    order = np.argsort(-np.diag(gram), kind="stable")
    upper = inverse_root(gram[np.ix_(order, order)], damping)
    if upper is None:
        return nearest(weight, scales, bits)
    left = weight.astype(np.float64)[:, order]
    steps = spread(scales, inputs)[:, order]
    found = np.zeros(left.shape, np.int8)
    for start in range(0, inputs, BLOCK):
        stop = min(start + BLOCK, inputs)
        errors = np.zeros((len(left), stop - start))
        for column in range(start, stop):
            whole = np.clip(np.rint(left[:, column] / steps[:, column]), low, high)
            found[:, column] = whole
            error = (left[:, column] - whole * steps[:, column]) / upper[column, column]
            left[:, column:stop] -= np.outer(error, upper[column, column:stop])
            errors[:, column - start] = error
        left[:, stop:] -= errors @ upper[start:stop, stop:]
    return found[:, np.argsort(order, kind="stable")]


def refined(
    weight: np.ndarray,
    whole: np.ndarray,
    scales: np.ndarray,
    bits: int,
    gram: np.ndarray,
    damping: float,
    keep: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """(integers, steps) with no more error tr((W - Q) G (W - Q)^T) than before, G the damped ``gram``, by coordinate descent: in turn each
    block's step by least squares, kept where what ``keep`` makes of it for the file is better, and each column's integers.

    The descent on integers is that of Behdin et al. 2023 (QuantEase, https://arxiv.org/abs/2309.01885, section 3.1), begun from GPTQ's."""
    low, high = bounds(bits)
    whole, scales = whole.astype(np.float64), scales.copy()
    damped = damped_of(gram, damping)
    inputs, size = weight.shape[1], weight.shape[1] // scales.shape[1]
    slope = (weight - whole * spread(scales, inputs)) @ damped  # (outputs, inputs): half the negative gradient
    for _ in range(SWEEPS):
        for block in range(scales.shape[1]):
            part = slice(block * size, (block + 1) * size)
            levels = whole[:, part]
            bend = ((levels @ damped[part, part]) * levels).sum(1)
            gain = (slope[:, part] * levels).sum(1)
            moved = keep(np.where(bend > 0, scales[:, block] + gain / np.where(bend > 0, bend, 1), scales[:, block])) - scales[:, block]
            moved = np.where(2 * moved * gain > np.square(moved) * bend, moved, 0)
            scales[:, block] += moved
            slope -= (moved[:, None] * levels) @ damped[part]
        for column in range(inputs):
            step = scales[:, column // size]
            better = np.clip(np.rint(whole[:, column] + slope[:, column] / (step * damped[column, column])), low, high)
            rows = np.flatnonzero(better != whole[:, column])
            if len(rows):
                change = (better[rows] - whole[rows, column]) * step[rows]
                whole[rows, column] = better[rows]
                slope[rows] -= np.outer(change, damped[column])
    return whole.astype(np.int8), scales


def aligned(weight: np.ndarray, rows: np.ndarray, before: np.ndarray, damping: float | None = None) -> np.ndarray:
    """(outputs, inputs) the weight whose outputs on ``rows`` (n, inputs) are nearest to those of ``weight`` on the rows that the layer read
    ``before`` any layer was rounded: least squares, damped towards ``weight`` as GPTQ's Gram matrix is (Li et al. 2025, GPTAQ,
    https://arxiv.org/abs/2504.02692, section 3). ``damping``: that of the Gram matrix, else by :func:`shrinkage`, at least ``ALIGNING``."""
    damped = damped_of(rows.T @ rows, max(ALIGNING, shrinkage(rows) if damping is None else damping))
    return weight + np.linalg.solve(damped, rows.T @ (before - rows) @ weight.T.astype(np.float64)).T


def shrinkage(rows: np.ndarray, samples: np.ndarray | None = None) -> float:
    """How much of its mean diagonal a Gram matrix of ``rows`` (n, inputs) needs on its diagonal, for rows that were not seen: the shrinkage of
    Ledoit and Wolf 2004 (https://doi.org/10.1016/S0047-259X(03)00096-4, section 3.3), at least GPTQ's own share.

    ``samples`` (n,): which sample each row comes from. Rows of one sample are alike, so that the noise is that between samples: the squared
    distances of their own Gram matrices from their share of the whole (the same formula where each row is a sample)."""
    many, inputs = rows.shape
    moments = rows.T @ rows / many
    apart = np.square(moments - np.diag(moments).mean() * np.eye(inputs)).sum()
    noise = between(rows, np.arange(many) if samples is None else samples, moments) / many**2
    share = min(noise / apart, MOST_SHRINKAGE) if min(noise, apart) > 0 else 0.0
    return max(DAMPING, share / (1 - share))


def between(rows: np.ndarray, samples: np.ndarray, moments: np.ndarray) -> float:
    """The sum over samples of the squared distance (Frobenius) of each one's Gram matrix G_s from its share n_s of ``moments`` M, by
    |G_s - n_s M|^2 = |G_s|^2 - 2 n_s <G_s, M> + n_s^2 |M|^2."""
    order = np.argsort(samples, kind="stable")
    sizes = np.unique(samples, return_counts=True)[1]
    parts = np.split(rows[order], np.cumsum(sizes)[:-1])
    own = np.array([np.square(part @ part.T if len(part) < part.shape[1] else part.T @ part).sum() for part in parts])
    shared = np.array([((part @ moments) * part).sum() for part in parts])
    return float((own - 2 * sizes * shared + np.square(sizes) * np.square(moments).sum()).sum())


def damped_of(gram: np.ndarray, share: float) -> np.ndarray:
    """A Gram matrix with ``share`` of its mean diagonal added to the diagonal."""
    return gram.astype(np.float64) + share * max(float(np.diag(gram).mean()), 1e-12) * np.eye(len(gram))


def inverse_root(gram: np.ndarray, damping: float = DAMPING) -> np.ndarray | None:
    """The upper Cholesky factor of the inverse of a damped Gram matrix; None where there is none."""
    try:
        return np.linalg.cholesky(np.linalg.inv(damped_of(gram, damping))).T
    except np.linalg.LinAlgError:
        return None


def adaround(weight: np.ndarray, scales: np.ndarray, bits: int, rows: np.ndarray) -> np.ndarray:
    """(outputs, inputs) integers by AdaRound (Nagel et al. 2020, https://arxiv.org/abs/2004.10568, eq. 21-25): each weight up or
    down, learnt by gradient so that ``rows`` (n, inputs) give the outputs that they gave; never worse on them than the nearest."""
    import torch

    low, high = bounds(bits)
    step = torch.tensor(spread(scales, weight.shape[1]), dtype=torch.float32)
    wanted, x = torch.tensor(weight, dtype=torch.float32), torch.tensor(rows, dtype=torch.float32)
    floor = torch.floor(wanted / step)
    share = (wanted / step - floor).clamp(0.01, 0.99)
    bottom, top = STRETCH
    place = torch.log((share - bottom) / (top - share)).requires_grad_(True)  # the inverse of eq. 23
    optimizer = torch.optim.Adam([place], lr=RATE)
    scale = (x @ wanted.t()).square().mean().clamp_min(1e-12)
    for number in range(STEPS):
        up = (torch.sigmoid(place) * (top - bottom) + bottom).clamp(0, 1)  # eq. 23
        soft = (floor + up).clamp(low, high) * step
        loss = ((x @ (soft - wanted).t()).square().mean()) / scale
        if number > STEPS // 5:
            sharp = 20 - 18 * (number / STEPS)
            loss = loss + PRESSURE * (1 - (2 * up - 1).abs().pow(sharp)).mean()  # eq. 24
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learnt = (floor + (place.detach() > 0)).clamp(low, high).numpy().astype(np.int8)
    plain = nearest(weight, scales, bits)
    return min((learnt, plain), key=lambda whole: output_error(weight, whole, scales, rows))


def output_error(weight: np.ndarray, whole: np.ndarray, scales: np.ndarray, rows: np.ndarray) -> float:
    """Mean squared error of a layer's outputs on ``rows`` (n, inputs)."""
    return float(np.square(rows @ (whole * spread(scales, weight.shape[1]) - weight).T).mean())
