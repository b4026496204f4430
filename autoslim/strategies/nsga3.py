"""Non-dominated sorting genetic algorithm III: diversity by reference points, for three objectives and more (Deb and Jain 2014,
doi 10.1109/TEVC.2013.2281535)."""

import warnings
from collections.abc import Sequence

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIIISampler

from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._genetic import GeneticStrategy


class Member(GeneticStrategy):
    """``population``: points per generation."""

    def __init__(
        self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int, population: int = 16
    ) -> None:
        def make(state: int) -> NSGAIIISampler:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return NSGAIIISampler(population_size=population, seed=state)

        super().__init__(space, objectives, constraints, seed, population, make)
