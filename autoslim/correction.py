"""What a forecast of times leaves over, told layer by layer: ridge regression of the measured rest on the layers' forecast times.

The time of a file is not one factor times the sum of its layers' profiles: some kernels win more from fewer channels than others, bytes
next to float pay a conversion, and every kernel costs something by being there. The rest is spread over terms for just that; how
far to believe it is decided by leave-one-out error, which for ridge regression needs no second fit (Allen 1974, PRESS).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: strengths of the ridge that compete with no correction at all, and observations that it takes
STRENGTHS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
FEWEST = 8
#: units of the terms: a conversion in a layer's time, a kernel in the model's
TURN, KERNEL = 0.3, 0.002
#: leave-one-out errors count up to this much, so that one spoilt measurement does not decide
MOST_ERROR = 0.5


def terms(time: np.ndarray, integer: np.ndarray, alive: np.ndarray, untouched: np.ndarray) -> np.ndarray:
    """(n, 3 L + 1) of n configurations: every layer's forecast ``time`` (n, L) if it is ``integer`` and if it is not; where the kind changes
    from one layer that is ``alive`` to the next, TURN of the time (L,) that the latter takes in the untouched model, which goes with the
    size of what is converted; and the number of layers, in units of KERNEL of the untouched model's time."""
    turned = np.zeros_like(time)
    for row, (kinds, there) in enumerate(zip(integer, alive, strict=True)):
        places = np.flatnonzero(there)
        turned[row, places[1:]] = np.abs(np.diff(kinds[places]))
    return np.column_stack([time * integer, time * (1 - integer), TURN * turned * untouched, KERNEL * untouched.sum() * alive.sum(1)])


@dataclass(frozen=True)
class Correction:
    """``weights`` (F,) of the terms; ``strength`` of the ridge, infinite for none; ``error``: mean leave-one-out error, relative."""

    weights: np.ndarray
    strength: float
    error: float

    @property
    def turns(self) -> np.ndarray:
        """(L,) weights of the conversions before each layer, in units of TURN of its untouched time."""
        return self.weights[2 * (len(self.weights) // 3) : -1]

    def of(self, found: np.ndarray) -> np.ndarray:
        """(n,) milliseconds to add to a forecast, of terms (n, F)."""
        return found @ self.weights


def learned(found: np.ndarray, forecast: np.ndarray, measured: np.ndarray, strengths: Sequence[float] = STRENGTHS) -> Correction | None:
    """The correction of n configurations with terms ``found`` (n, F); None where they are too few, or where it would not have helped to
    foretell each of them from the others."""
    n = len(measured)
    if n < FEWEST:
        return None
    rest, scaled = (measured - forecast) / measured, found / measured[:, None]
    alike = scaled @ scaled.T
    best, least = None, float(np.minimum(np.abs(rest), MOST_ERROR).mean())
    for strength in strengths:
        solved = np.linalg.solve(alike + strength * np.eye(n), np.eye(n))
        hat = alike @ solved
        left_out = (rest - hat @ rest) / np.maximum(1 - np.diag(hat), 1e-9)
        error = float(np.minimum(np.abs(left_out), MOST_ERROR).mean())
        if error < least:
            best, least = Correction(scaled.T @ (solved @ rest), strength, error), error
    return best
