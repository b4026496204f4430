"""Where zeros may lie: anywhere, N of every M inputs, or in whole blocks. Each is a choice from scores to what is kept."""

import re
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Anywhere:
    """The share of the lowest scores goes, of the whole matrix or of each row."""

    share: float
    per_row: bool = False
    step: int | None = None  #: columns that must be seen at once, in order; None: as many as there are
    width: int = 1  #: the columns seen at once must be a multiple of this

    def __call__(self, scores: Tensor) -> Tensor:
        """(rows, columns) scores -> the same shape, True where a weight stays."""
        table = scores if self.per_row else scores.reshape(1, -1)
        return drop(table, round(table.shape[1] * self.share)).view_as(scores)


@dataclass(frozen=True)
class Above:
    """What scores at least ``threshold`` stays."""

    threshold: float
    step: int | None = None
    width: int = 1

    def __call__(self, scores: Tensor) -> Tensor:
        return scores >= self.threshold


@dataclass(frozen=True)
class Few:
    """N of every M consecutive inputs stay (Mishra et al. 2021, https://arxiv.org/abs/2104.08378, section 3.1 for 2:4)."""

    n: int
    m: int

    @property
    def step(self) -> int:
        return self.m

    @property
    def width(self) -> int:
        return self.m

    def fits(self, rows: int, columns: int) -> bool:
        return columns % self.m == 0

    def __call__(self, scores: Tensor) -> Tensor:
        return drop(scores.reshape(-1, self.m), self.m - self.n).view_as(scores)


@dataclass(frozen=True)
class Blocks:
    """Blocks of ``rows`` outputs by ``width`` inputs go as a whole, the share with the lowest summed scores."""

    share: float
    rows: int
    width: int
    step: int | None = None

    def fits(self, rows: int, columns: int) -> bool:
        return rows % self.rows == 0 and columns % self.width == 0

    def __call__(self, scores: Tensor) -> Tensor:
        down, across = scores.shape[0] // self.rows, scores.shape[1] // self.width
        pooled = scores.reshape(down, self.rows, across, self.width).sum((1, 3))
        kept = drop(pooled.reshape(1, -1), round(pooled.numel() * self.share)).view_as(pooled)
        return kept[:, None, :, None].expand(down, self.rows, across, self.width).reshape(scores.shape)


def drop(table: Tensor, count: int) -> Tensor:
    """True but at the ``count`` lowest entries of each row; of equal ones the first go."""
    kept = torch.ones_like(table, dtype=torch.bool)
    return kept.scatter_(1, table.argsort(dim=1, stable=True)[:, :count], False)


def parse(text: str) -> tuple[str, int, int] | None:
    """ "2:4" -> (":", 2, 4), "4x1" -> ("x", 4, 1); None for anything else."""
    match = re.fullmatch(r"(\d{1,3})([:x])(\d{1,3})", text)
    if match is None:
        return None
    first, kind, second = int(match[1]), match[2], int(match[3])
    good = 0 < first < second if kind == ":" else first > 0 and second > 0 and first * second > 1
    return (kind, first, second) if good and max(first, second) <= 64 else None
