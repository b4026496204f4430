"""Gaussian process with the logarithm of the expected hypervolume improvement (Ament et al. 2023, https://arxiv.org/abs/2310.20708), as
Optuna has it. Loads torch into the controller; its proposals take seconds beyond a few hundred trials."""

from collections.abc import Sequence

from optuna.samplers import GPSampler
from optuna.trial import TrialState

from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import SampledStrategy


class Member(SampledStrategy):
    """It ignores all but complete trials, so rejected and failed points reach it as complete ones with the worst values seen; a constraint
    for failures would be one more process to fit. ``startup``: how many random points come first."""

    def __init__(
        self, space: SearchSpace, objectives: Sequence[tuple[str, Direction]], constraints: Sequence[str], seed: int, startup: int = 8
    ) -> None:
        super().__init__(
            space,
            objectives,
            constraints,
            seed,
            lambda state: GPSampler(n_startup_trials=startup, seed=state),
            TrialState.COMPLETE,
            failure_breaks=False,
        )
