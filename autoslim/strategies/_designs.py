"""Points to begin with, from which the effect of every single choice can be told."""

from collections.abc import Collection, Sequence

import numpy as np

#: designs that are drawn, of which the best is taken; what keeps the determinant of one with fewer points than effects above zero
DRAWS, RIDGE = 256, 0.1


def designed(counts: Sequence[int], size: int, generator: np.random.Generator, told: Collection[int] | None = None) -> np.ndarray:
    """(size, domains) positions of choices: every choice of every domain about equally often, and as far as ``size`` points allow no two domains
    always changed together. Of DRAWS random balanced designs the one with the largest determinant of the effects' information matrix
    (D-optimality: Kiefer and Wolfowitz 1959, https://doi.org/10.1214/aoms/1177706252), over the domains ``told`` (places; default: all).
    """
    places = range(len(counts)) if told is None else told
    drawn = [
        np.array([generator.permutation(np.resize(generator.permutation(count), size)) for count in counts]).T.reshape(size, -1)
        for _ in range(DRAWS)
    ]
    return max(drawn, key=lambda rows: information(rows, counts, places))


def information(rows: np.ndarray, counts: Sequence[int], places: Collection[int]) -> float:
    """Logarithm of the determinant of the information matrix of all effects of the domains at ``places`` but the mean's."""
    columns = [(rows[:, [i]] == np.arange(1, counts[i])).astype(float) for i in places]
    effects = np.hstack([np.zeros((len(rows), 0)), *columns])
    effects -= effects.mean(0)
    return float(np.linalg.slogdet(effects.T @ effects + RIDGE * np.eye(effects.shape[1]))[1])
