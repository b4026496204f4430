"""Ask and tell over an Optuna sampler with an in-memory study of its own, where place-holders for rejected points may live."""

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import TrialState, create_trial

from autoslim.candidate import Done, Failed, Outcome, Point
from autoslim.metrics import Direction
from autoslim.space import Domain, SearchSpace

FAILED = "failed"


class SampledStrategy:
    """The work that samplers share; a member gives ``make`` (random state -> sampler) and how it learns of rejections.

    ``rejected_as``: PRUNED for samplers that use pruned trials with constraints (TPE); COMPLETE, with the worst values seen,
    for those that look only at complete ones (NSGA-II). ``failure_breaks``: whether a failed point breaks a constraint of its own; without, its
    worst values alone tell of it.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[tuple[str, Direction]],
        constraints: Sequence[str],
        seed: int,
        make: Callable[[int], BaseSampler],
        rejected_as: TrialState,
        failure_breaks: bool = True,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._objectives, self._constraints, self._seed = space, tuple(objectives), tuple(constraints), seed
        self._constraints += (FAILED,) if failure_breaks else ()
        self._make, self._rejected_as = make, rejected_as
        self._study = optuna.create_study(directions=["minimize" if d == "min" else "maximize" for _, d in objectives], sampler=make(0))
        self._distributions = {domain.name: distribution(domain) for domain in space.domains}
        self._running: dict[int, optuna.Trial] = {}

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """The next point; the sampler's random state comes from (seed, number) alone."""
        self._study.sampler = self._make(derived(self._seed, number))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = self._study.ask(fixed_distributions=self._distributions)
        self._running[number] = trial
        params, system = trial.params, trial.storage.get_trial_system_attrs(trial._trial_id)  # copies, taken once
        point = {domain.name: to_choice(domain, params[domain.name]) for domain in self._space.domains}
        return point, {name: value for name, value in system.items() if _plain(value)}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Learn an outcome: of a trial asked here, of a seed, or of an earlier run (``memo`` restores the sampler's notes)."""
        state, values = self._translate(outcome)
        constraints = self._violations(outcome)
        live = self._running.pop(number, None)
        if live is not None:
            for name, value in constraints.items():
                live.set_constraint(name, value)
            self._study.tell(live, values, state)
            return
        params = {domain.name: to_sampler(domain, point[domain.name]) for domain in self._space.domains}
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=params,
                distributions=self._distributions,
                constraints=constraints,
                system_attrs={name: value for name, value in memo.items() if not name.startswith("constraints")},
            )
        )

    def _translate(self, outcome: Outcome) -> tuple[TrialState, list[float] | None]:
        if isinstance(outcome, Done):
            return TrialState.COMPLETE, [float(outcome.measurement.get(name)) for name, _ in self._objectives]
        if self._rejected_as is TrialState.PRUNED:
            return TrialState.PRUNED, None
        return TrialState.COMPLETE, self._worst()

    def _worst(self) -> list[float]:
        """The worst value seen of each objective: a place-holder that never leaves this object."""
        done = [trial.values for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
        if not done:
            return [1e9 if direction == "min" else -1e9 for _, direction in self._objectives]
        return [(max if direction == "min" else min)(values[i] for values in done) for i, (_, direction) in enumerate(self._objectives)]

    def _violations(self, outcome: Outcome) -> dict[str, float]:
        if isinstance(outcome, Failed):
            return {name: float(name == FAILED) for name in self._constraints}
        return {name: float(outcome.violations.get(name, 0.0)) for name in self._constraints}


def derived(seed: int, number: int) -> int:
    """A 31-bit random state from (seed, trial number), the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big") >> 1


class _Shared:
    """A distribution that is its own copy: Optuna copies every trial with all its distributions several times, and none changes."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _Place(_Shared, IntDistribution):
    pass


class _Category(_Shared, CategoricalDistribution):
    pass


def distribution(domain: Domain) -> BaseDistribution:
    """What a sampler sees: the position for ordered choices, so that neighbours are alike, else a category."""
    return _Place(0, len(domain.choices) - 1) if domain.ordered else _Category(list(domain.choices))


def to_choice(domain: Domain, value: Any) -> Any:
    return domain.choices[value] if domain.ordered else value


def to_sampler(domain: Domain, choice: Any) -> Any:
    return domain.choices.index(choice) if domain.ordered else choice


def _plain(value: Any) -> bool:
    return isinstance(value, bool | int | float | str | type(None)) or isinstance(value, list | dict) and len(str(value)) < 2000
