"""The drop of the metric that a gap stands for, as results tell it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: what counts as one result more before there are any: a gap, and the drop per square root of it
GUESSED_GAP, GUESSED = 0.01, 0.05
#: relative drops above it are beyond what anybody looks for, and grow otherwise
LEARNT = 0.1
#: standard error of an expected drop, as a share of it
SURE = 0.25
#: the drop that is as good as all lost where no limit says another, and the least that it can be
MOST, LEAST = 0.05, 1e-3


@dataclass(frozen=True)
class Loss:
    """Expected relative drop: ``root`` per square root of the gap, ``line`` per gap, up to ``most``. A divergence grows as the square of small
    errors of the outputs, the share of samples that small errors carry over a border as the errors themselves; so drops begin with the root."""

    root: float
    line: float
    most: float = MOST

    def __call__(self, gaps: Sequence[float] | np.ndarray) -> np.ndarray:
        """(n,) drops of gaps (n,)."""
        gaps = np.maximum(np.asarray(gaps, dtype=float), 0.0)
        return np.minimum(self.root * np.sqrt(gaps) + self.line * gaps, self.most)


def learned(gaps: Sequence[float], drops: Sequence[float], used: Sequence[float] = ()) -> Loss:
    """The loss of gaps (n,) above 0 and relative drops (n,), by non-negative least squares. A drop counts by the inverse of its gap, since
    counts of wrong samples vary as their number. ``used`` (n,): the share of an allowed drop that each drop is, nan without a limit."""
    from scipy.optimize import nnls

    gaps, drops = np.asarray(gaps, dtype=float), np.asarray(drops, dtype=float)
    known = np.isfinite(gaps) & (drops <= LEARNT) & (gaps > 0)
    roots, lost = np.sqrt(np.r_[GUESSED_GAP, gaps[known]]), np.r_[GUESSED * np.sqrt(GUESSED_GAP), drops[known]]
    found, _ = nnls(np.column_stack([np.ones_like(roots), roots]), lost / roots)
    return Loss(float(found[0]), float(found[1]), allowed(drops, np.asarray(used, dtype=float)))


def allowed(drops: np.ndarray, used: np.ndarray) -> float:
    """The limit on the relative drop, read off results; MOST where there is none, or where none lost anything."""
    told = [drop / share for drop, share in zip(drops, used, strict=False) if drop > 0 and share > 0]
    return max(LEAST, float(np.median(told))) if told else MOST


def weighed(expected: float, measured: float, error: float) -> float:
    """The mean of an expected drop and of one measured with a standard ``error``, each weighed by the inverse of its variance."""
    doubt = max(SURE * expected, 1e-9)
    return (measured / error**2 + expected / doubt**2) / (1 / error**2 + 1 / doubt**2)
