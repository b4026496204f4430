"""A study as a search algorithm of Ray Tune, for long fine-tuning of one trial per candidate under Tune's own schedulers.

``suggest`` asks and ``on_trial_complete`` tells, so that the record, its constraints and its resume are those of any study. A trial
reports the study's objectives under their names, and the violation of each limit as ``violation/NAME``; whatever is missing or not a
number makes it Failed, with the reason.
"""

import math
from collections.abc import Mapping
from typing import Any

from ray.tune.search import Searcher

from autoslim.candidate import Candidate, Done, Failed, Outcome
from autoslim.metrics import Measurement, Value
from autoslim.space import SearchSpace
from autoslim.study import Study

#: keys of a trial's configuration
POINT, RECIPE, NUMBER = "point", "recipe", "number"


class StudySearch(Searcher):
    """Gives Tune configurations {"number", "point", "recipe"} (plain data; Recipe.from_dict reads the last). ``study`` is open for
    writing and uses ``space``; ``limits`` are the names of its constraints; ``most`` ends the search after so many proposals."""

    def __init__(self, study: Study, space: SearchSpace, strategy: Any, objectives: Mapping[str, str], limits: tuple[str, ...], most: int):
        super().__init__()  # told no metric: Tune would end the whole run at the first trial that does not report it
        self._study, self._space, self._strategy, self._limits, self._most = study, space, strategy, limits, most
        self._objectives = tuple(objectives)
        self._running: dict[str, tuple[Candidate, Mapping[str, Any]]] = {}
        self._asked = 0
        for entry in study.entries():
            if entry.outcome is not None:
                strategy.tell(entry.number, entry.point, entry.memo, entry.outcome)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next candidate as Tune's configuration, recorded in the study; Searcher.FINISHED after the last."""
        if self._asked >= self._most:
            return Searcher.FINISHED
        self._asked += 1
        point, memo = self._strategy.ask(self._study.next_number())
        recipe = self._space.decode(point)
        candidate = Candidate(self._study.ask(point, recipe, "", memo), dict(point), recipe)
        self._running[trial_id] = candidate, memo
        return {NUMBER: candidate.number, POINT: dict(point), RECIPE: recipe.as_dict()}

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a candidate and teach the strategy."""
        candidate, memo = self._running.pop(trial_id)
        outcome = outcome_of(candidate, result, error, self._objectives, self._limits)
        self._study.tell(candidate.number, outcome, self._limits, self._objectives)
        self._strategy.tell(candidate.number, candidate.point, memo, outcome)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the record. The same command on the same study goes on; Tune's own restore is not for this."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see :meth:`save`."""


def outcome_of(
    candidate: Candidate, result: Mapping[str, Any] | None, error: bool, objectives: tuple[str, ...], limits: tuple[str, ...]
) -> Outcome:
    """How a trial of Tune ended, in the study's words."""
    if error:
        return Failed("crash", "the trial ended with an error; Tune's log of the trial has the trace")
    names = (*objectives, *(f"violation/{name}" for name in limits))
    found = {name: (result or {}).get(name) for name in names}
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return Failed("error", f"the trial reported {name} = {value!r}, needed: a finite number")
    measurement = Measurement({name: Value(float(found[name])) for name in objectives})
    violations = {name: float(found[f"violation/{name}"]) for name in limits}
    return Done(measurement, violations, "", "", candidate.recipe, {"total": float((result or {}).get("time_total_s", 0.0))})
