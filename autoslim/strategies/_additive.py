"""What a point will cost, learnt from results alone: a sum over its choices on a logarithmic scale, by ridge regression."""

from collections.abc import Sequence

import numpy as np

#: strength of the pull towards no effect, in results
PULL = 0.3


class Additive:
    """log value ~ mean + sum of an effect per choice. ``counts`` (domains,) are the numbers of choices."""

    def __init__(self, counts: Sequence[int], rows: np.ndarray, values: np.ndarray) -> None:
        """``rows`` (n, domains) positions of choices; ``values`` (n,) positive, those that are not are left out."""
        self._counts = tuple(counts)
        rows, values = np.asarray(rows, dtype=int).reshape(-1, len(self._counts)), np.asarray(values, dtype=float)
        known = np.isfinite(values) & (values > 0)
        self._mean, self._effects, self.spread = 0.0, np.zeros(sum(self._counts)), 1.0
        if known.any():
            table, logs = self._table(rows[known]), np.log(values[known])
            self._mean = float(logs.mean())
            gram = table.T @ table + PULL * np.eye(table.shape[1])
            self._effects = np.linalg.solve(gram, table.T @ (logs - self._mean))
            self.spread = float(np.sqrt(np.mean((logs - self._mean - table @ self._effects) ** 2))) + 0.5 / len(logs)

    def _table(self, rows: np.ndarray) -> np.ndarray:
        """(n, all choices) ones where a row has the choice."""
        return np.concatenate([np.eye(count)[rows[:, place]] for place, count in enumerate(self._counts)], 1)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n,) logarithms that the rows are expected to have."""
        return self._mean + self._table(np.asarray(rows, dtype=int)) @ self._effects

    def less(self, row: Sequence[int], other: Sequence[int]) -> bool:
        """Whether a row is expected to have less than another, by more than a hundredth."""
        mine, theirs = self(np.array([row, other]))
        return bool(mine < theirs - 0.01)

    def effect(self, place: int, choice: int) -> float:
        """What one choice of the domain at ``place`` adds to the logarithm."""
        return float(self._effects[sum(self._counts[:place]) + choice])
