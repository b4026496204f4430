"""The front and its hypervolume as results come in, one at a time; what it costs does not grow with their number, only with the front."""

from collections.abc import Sequence

import numpy as np

from autoslim import pareto


class Growth:
    """``corner`` (axes,) bounds the hypervolume from above; all axes are to be minimised. ``volumes``: after each result, in order."""

    def __init__(self, corner: Sequence[float]) -> None:
        self._corner = np.array(corner, dtype=float)
        self._front = np.empty((0, len(self._corner)))
        self.volumes: list[float] = []

    def add(self, point: Sequence[float] | None) -> float:
        """The hypervolume with one more result, None for one that has no place (rejected, failed, infeasible)."""
        volume = self.volumes[-1] if self.volumes else 0.0
        if point is not None:
            new = np.array(point, dtype=float)
            if not (self._front <= new).all(1).any():
                self._front = np.vstack([self._front[~(new <= self._front).all(1)], new])
                volume = pareto.hypervolume(self._front, self._corner)
        self.volumes.append(volume)
        return volume
