"""Non-dominated sorting genetic algorithm II (Deb et al. 2002, doi 10.1109/4235.996017)."""

from collections.abc import Sequence

from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState

from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import SampledStrategy


class Member(SampledStrategy):
    """It ignores all but complete trials, so rejected points reach it as complete ones with the worst values seen."""

    def __init__(self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int, population: int = 16) -> None:
        def make(state: int) -> NSGAIISampler:
            return NSGAIISampler(population_size=population, seed=state)

        super().__init__(space, objectives, constraints, seed, make, TrialState.COMPLETE)
