"""Tree-structured Parzen estimator (Watanabe 2023, arXiv 2304.11127), multivariate, with constant liar for parallel slots."""

from collections.abc import Sequence

from optuna.samplers import TPESampler
from optuna.trial import TrialState

from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import SampledStrategy


class Member(SampledStrategy):
    """Rejected points reach it as pruned trials with their violations: it learns from them without a value."""

    def __init__(
        self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int, startup: int = 8
    ) -> None:
        def make(state: int) -> TPESampler:
            return TPESampler(multivariate=True, constant_liar=True, n_startup_trials=startup, seed=state)

        super().__init__(space, objectives, constraints, seed, make, TrialState.PRUNED)
