"""What Optuna's genetic samplers share: generations, and a resume that proposes what an undisturbed run would have."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from autoslim.candidate import Outcome, Point
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
        self._population, self._sizes = population, Counter[int]()

        def known_space(state: int) -> BaseSampler:
            """A sampler that need not infer from all trials what it may choose, which takes most of its time beyond a few hundred."""
            sampler = make(state)
            sampler.infer_relative_search_space = lambda study, trial: {n: d for n, d in self._distributions.items() if not d.single()}
            return sampler

        super().__init__(space, objectives, constraints, seed, known_space, TrialState.COMPLETE)

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """The sampler hands its parents out in another order when it has just chosen them than later, from its notes; so
        that a resumed search proposes what an undisturbed one would, the choice is made before the proposal."""
        if self._sizes:
            latest = max(self._sizes)
            for generation in (latest, latest + 1):
                if generation > 0 and self._sizes[generation - 1] >= self._population:
                    self._make(0).get_parent_population(self._study, generation)
        point, memo = super().ask(number)
        self._count(memo)
        return point, memo

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """As for all samplers; points of an earlier run count to their generation."""
        if number not in self._running:
            self._count(memo)
        super().tell(number, point, memo, outcome)

    def _count(self, memo: Mapping[str, Any]) -> None:
        self._sizes.update(value for name, value in memo.items() if name.endswith(":generation"))
