"""Fronts, hypervolume and knee on plain arrays. Every column is to be minimised; see metrics.loss_sign."""

import numpy as np


def front(points: np.ndarray) -> np.ndarray:
    """Mask, (n,) bool, of the rows of ``points`` (n, k) that no other row dominates; of equal rows one counts."""
    import moocore

    points = np.asarray(points, dtype=float)
    return moocore.is_nondominated(points, keep_weakly=False) if len(points) else np.zeros(0, dtype=bool)


def hypervolume(points: np.ndarray, reference: np.ndarray) -> float:
    """Volume dominated by ``points`` (n, k) and bounded by ``reference`` (k,)."""
    import moocore

    points = np.asarray(points, dtype=float).reshape(-1, len(reference))
    return float(moocore.hypervolume(points, ref=reference)) if len(points) else 0.0


def knee(points: np.ndarray) -> int:
    """Row of the front ``points`` (n, k) nearest to the ideal corner in the sum of axes scaled to [0, 1]."""
    points = np.asarray(points, dtype=float)
    span = np.ptp(points, axis=0)
    scaled = (points - points.min(axis=0)) / np.where(span > 0, span, 1.0)
    return int(np.argmin(scaled.sum(axis=1)))
