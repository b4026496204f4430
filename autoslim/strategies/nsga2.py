"""Non-dominated sorting genetic algorithm II (Deb et al. 2002, doi 10.1109/4235.996017)."""

from collections.abc import Sequence

from optuna.samplers import NSGAIISampler

from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._genetic import GeneticStrategy


class Member(GeneticStrategy):
    """``population``: points per generation."""

    def __init__(
        self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int, population: int = 16
    ) -> None:
        super().__init__(
            space, objectives, constraints, seed, population, lambda state: NSGAIISampler(population_size=population, seed=state)
        )
