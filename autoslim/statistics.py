"""Intervals, on plain arrays. All are 95 %."""

from collections.abc import Callable

import numpy as np

from autoslim.metrics import Value

REPEATS = 2000
Z = 1.959964


def mean_interval(parts: np.ndarray, seed: int = 0) -> Value:
    """Mean of (n,) parts. Zeros and ones: Wilson's score interval (1927); anything else: percentile bootstrap."""
    parts = np.asarray(parts, dtype=float)
    if binary(parts):
        return wilson(parts)
    low, high = np.percentile(resampled_means(parts, seed), [2.5, 97.5])
    return Value(float(parts.mean()), float(low), float(high))


def quick_interval(parts: np.ndarray) -> Value:
    """Mean of (n,) parts without resampling, for candidates of a search. Zeros and ones: Wilson's score interval; anything else: the normal
    interval, which ends at 0 and 1 where all parts lie between them, since the mean of such parts cannot be outside."""
    parts = np.asarray(parts, dtype=float)
    if binary(parts):
        return wilson(parts)
    mean, half = float(parts.mean()), Z * float(parts.std(ddof=1)) / len(parts) ** 0.5
    bounded = parts.min() >= 0.0 and parts.max() <= 1.0
    return Value(mean, max(0.0, mean - half), min(1.0, mean + half)) if bounded else Value(mean, mean - half, mean + half)


def binary(parts: np.ndarray) -> bool:
    return bool(np.isin(parts, (0.0, 1.0)).all())


def wilson(parts: np.ndarray) -> Value:
    """Wilson's score interval (1927) of the mean of (n,) zeros and ones."""
    n, mean = len(parts), float(parts.mean())
    centre = (mean + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * float(np.sqrt(mean * (1 - mean) / n + Z * Z / (4 * n * n)))
    return Value(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)))  # mean inside despite rounding


def paired_interval(ours: np.ndarray, theirs: np.ndarray, seed: int = 0) -> Value:
    """Mean of ``ours - theirs``, (n,) each, by a paired bootstrap. Where no part differs, the rule of three (a difference of
    3 / n would still go unseen once in twenty times) takes the place of an interval of width zero."""
    difference = np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)
    if not difference.any():
        bound = 3.0 / len(difference) * max(1.0, float(np.abs(theirs).max()))
        return Value(0.0, -bound, bound)
    low, high = np.percentile(resampled_means(difference, seed), [2.5, 97.5])
    return Value(float(difference.mean()), float(low), float(high))


def resampled_means(parts: np.ndarray, seed: int) -> np.ndarray:
    """(REPEATS,) means of samples drawn with replacement."""
    generator = np.random.default_rng(seed)
    n = len(parts)
    return np.array([parts[generator.integers(0, n, n)].mean() for _ in range(REPEATS)])


def corpus_interval(score: Callable[[np.ndarray], float], n: int, repeats: int = 200, seed: int = 0) -> tuple[float, float]:
    """(low, high) of a corpus figure; ``score`` takes the indices of the batches drawn, out of n."""
    generator = np.random.default_rng(seed)
    low, high = np.percentile([score(generator.integers(0, n, n)) for _ in range(repeats)], [2.5, 97.5])
    return float(low), float(high)
