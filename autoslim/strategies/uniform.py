"""The honest baseline: every layer treated alike, at all combinations of the techniques' values, in random order."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoslim.candidate import Outcome, Point
from autoslim.space import RECOVERY
from autoslim.strategies._begun import Begun


@dataclass(eq=False, repr=False)
class Member(Begun):
    """Learns nothing; begins again when all combinations were asked, which ends a search."""

    def __post_init__(self) -> None:
        names = [name for name in dict.fromkeys(domain.technique for domain in self.space.domains) if name != RECOVERY]
        positions = itertools.product(*(range(self.space.depth_of(name)) for name in names))
        points = [self.space.uniform(**dict(zip(names, choice, strict=True))) for choice in positions]
        order = self.random(0).permutation(len(points))
        self._points = [points[i] for i in order]

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        return dict(self._points[number % len(self._points)]), {}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Nothing to learn."""
