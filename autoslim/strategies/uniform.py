"""The honest baseline: every layer treated alike, at all combinations of the techniques' values, in random order."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoslim.candidate import Outcome, Point
from autoslim.metrics import Direction
from autoslim.space import RECOVERY, SearchSpace
from autoslim.strategies._sampled import derived


class Member:
    """Learns nothing; begins again when all combinations were asked, which ends a search."""

    def __init__(self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int) -> None:
        names = [name for name in dict.fromkeys(domain.technique for domain in space.domains) if name != RECOVERY]
        positions = itertools.product(*(range(space.depth_of(name)) for name in names))
        points = [space.uniform(**dict(zip(names, choice, strict=True))) for choice in positions]
        order = np.random.default_rng(derived(seed, 0)).permutation(len(points))
        self._points = [points[i] for i in order]

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        return dict(self._points[number % len(self._points)]), {}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Nothing to learn."""
