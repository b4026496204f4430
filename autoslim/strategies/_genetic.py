"""What Optuna's genetic samplers share: generations, and a resume that proposes what an undisturbed run would have."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autoslim.candidate import Point
from autoslim.metrics import Direction
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import SampledStrategy


class GeneticStrategy(SampledStrategy):
    """They ignore all but complete trials, so rejected points reach them as complete ones with the worst values seen."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[tuple[str, Direction]],
        constraints: Sequence[str],
        seed: int,
        population: int,
        make: Callable[[int], BaseSampler],
    ) -> None:
        self._population = population
        super().__init__(space, objectives, constraints, seed, make, TrialState.COMPLETE)

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """The sampler hands its parents out in another order when it has just chosen them than later, from its notes; so
        that a resumed search proposes what an undisturbed one would, the choice is made before the proposal."""
        sampler = self._make(0)
        generations = [
            memo
            for trial in self._study.get_trials(deepcopy=False)
            for key, memo in trial.system_attrs.items()
            if key.endswith(":generation")
        ]
        if generations:
            for generation in (max(generations), max(generations) + 1):
                if generation > 0 and len([g for g in generations if g == generation - 1]) >= self._population:
                    sampler.get_parent_population(self._study, generation)
        return super().ask(number)
