"""Uniform random points: the baseline that any search must beat."""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from autoslim.candidate import Outcome, Point
from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import SampledStrategy


class Member(SampledStrategy):
    """Learns nothing, whatever it is told."""

    def __init__(self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int) -> None:
        super().__init__(space, objectives, constraints, seed, lambda state: RandomSampler(seed=state), TrialState.PRUNED)

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Nothing is kept: the next point depends on the seed and its number alone."""
        self._running.pop(number, None)
