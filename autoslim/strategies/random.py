"""Uniform random points: the baseline that any search must beat."""

from collections.abc import Sequence

from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import SampledStrategy


class Member(SampledStrategy):
    """Learns nothing, whatever it is told."""

    def __init__(self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int) -> None:
        super().__init__(space, objectives, constraints, seed, lambda state: RandomSampler(seed=state), TrialState.PRUNED)
