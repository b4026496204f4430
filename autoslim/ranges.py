"""Ranges of integer activations: four ways to find one from what a tensor held during calibration."""

from collections.abc import Callable

import numpy as np

#: values per tensor that a range is found from, and levels of an unsigned byte
VALUES, LEVELS = 1 << 16, 255
#: bins of the histograms of the methods mse and entropy
BINS = 2048
PERCENTILES = (99.99, 99.9)
SHRINKS = np.linspace(1.0, 0.2, 17)
Range = tuple[float, float]


def scale_of(low: float, high: float, levels: int = LEVELS) -> tuple[float, int]:
    """(step, zero point) of an unsigned integer with ``levels`` steps, those of a byte if not told, over a range that is widened to hold 0
    (Jacob et al. 2018, https://arxiv.org/abs/1712.05877, eq. 1)."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / levels, 1e-12)
    return float(np.float32(step)), int(np.clip(round(-low / step), 0, levels))


def span(low: float, high: float, zero: str) -> Range:
    """A range whose middle is 0 where ``zero`` is "symmetric", the range itself where it is "affine"."""
    most = max(abs(low), abs(high))
    return (-most, most) if zero == "symmetric" else (low, high)


def rounded(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Values as an unsigned byte would give them back."""
    step, zero = scale_of(low, high)
    return (np.clip(np.rint(values / step) + zero, 0, LEVELS) - zero).astype(np.float32) * np.float32(step)


def minmax(values: np.ndarray, low: float, high: float) -> list[Range]:
    """Everything that was seen."""
    return [(low, high)]


def percentile(values: np.ndarray, low: float, high: float) -> list[Range]:
    """Ranges that leave a share of the values outside on each side (McKinstry et al. 2018, https://arxiv.org/abs/1809.04191)."""
    return [tuple(np.quantile(values, [1 - share / 100, share / 100]).tolist()) for share in PERCENTILES]


def mse(values: np.ndarray, low: float, high: float) -> list[Range]:
    """The shrunk range with the least mean squared error of the tensor itself (Banner et al. 2019,
    https://arxiv.org/abs/1810.05723, by search instead of a fitted distribution)."""
    counts, edges = np.histogram(values[values != 0], BINS, (low, high))  # 0 is exact in every range
    middles = (edges[:-1] + edges[1:]) / 2
    tried = [(low * share, high * share) for share in SHRINKS] + [(low, high * share) for share in SHRINKS]
    return [min(tried, key=lambda pair: float(counts @ np.square(rounded(middles, *pair) - middles)))]


def entropy(values: np.ndarray, low: float, high: float) -> list[Range]:
    """The range whose quantised histogram diverges least from the original (Migacz 2017, "8-bit inference with TensorRT", slides 20 to
    30), for ranges that shrink towards 0. Own code: ONNX Runtime's collector takes 0.2 s for one tensor, too long for a search."""
    counts, edges = np.histogram(values[values != 0], BINS, (low, high))  # 0 is exact in every range
    zero = int(np.clip(np.searchsorted(edges, 0.0), 0, BINS))
    tried = []
    for share in np.linspace(1.0, 0.1, 19):
        first, last = zero - int(np.ceil(zero * share)), zero + int(np.ceil((BINS - zero) * share))
        tried.append((divergence(counts, first, last), float(edges[first]), float(edges[last])))
    return [min(tried)[1:]]


def divergence(counts: np.ndarray, first: int, last: int) -> float:
    """Kullback-Leibler divergence between the counts of bins [first, last), what lies outside added to the outermost, and the same
    merged into the levels of a byte, each level's count spread evenly over its bins that are not empty."""
    inside = counts[first:last].astype(np.float64)
    want = inside.copy()
    want[0] += counts[:first].sum()
    want[-1] += counts[last:].sum()
    starts = np.unique(np.linspace(0, len(inside), min(LEVELS + 1, len(inside)), endpoint=False).astype(int))
    lengths = np.diff([*starts, len(inside)])
    filled = inside > 0
    share = np.add.reduceat(inside, starts) / np.maximum(np.add.reduceat(filled.astype(float), starts), 1)
    got = np.where(filled, np.repeat(share, lengths), 0.0)
    want, got = want / max(want.sum(), 1e-12), got / max(got.sum(), 1e-12)
    there = want > 0
    return float((want[there] * np.log(want[there] / np.maximum(got[there], 1e-6))).sum())


METHODS: dict[str, Callable[[np.ndarray, float, float], list[Range]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def candidates(method: str, values: np.ndarray, low: float, high: float, zero: str = "affine") -> list[Range]:
    """The ranges to choose from; those of all methods where the choice is to be measured. ``zero``: see :func:`span`."""
    if not np.isfinite(values).all() or high <= low:
        return [span(low, high, zero)]
    names = METHODS if method == "measured" else (method,)
    return [span(*pair, zero) for name in names for pair in METHODS[name](values, low, high)]
