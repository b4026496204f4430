"""A short local search around a recipe that no longer holds: milder where accuracy is lost, stronger where a cost is too high.

First improvement: the neighbours of the best recipe so far are tried in turn, wide moves before single ones, and a better one
becomes the new centre (Hoos and Stutzle 2004, Stochastic Local Search, 1.5).
"""

import math
from collections.abc import Callable, Iterator, Mapping

from autoslim.budget import feasible
from autoslim.candidate import Done, Outcome
from autoslim.recipe import Recipe, Step
from autoslim.space import RECOVERY, Domain, SearchSpace

#: distillation steps of the first repair that is tried
LONG = 200
#: what is broken of a recipe of which no file could be made: everything, and milder ways come first
NO_FILE = {"max_drop": math.inf}


def repair(
    space: SearchSpace, recipe: Recipe, broken: Mapping[str, float], evaluate: Callable[[Recipe], Outcome], most: int
) -> Iterator[tuple[Recipe, Outcome]]:
    """Each recipe that holds in the search's measure, with its outcome, in the order found; at most ``most`` recipes are evaluated.

    ``broken``: {limit: measured / limit - 1} of ``recipe``, or NO_FILE; the caller stops when one holds in verification too.
    """
    seen, spent = {recipe.key}, 0
    best, worst = recipe, dict(broken)
    moved = True
    while moved and spent < most:
        moved = False
        for candidate in neighbours(space, best, worst):
            if candidate.key in seen or spent >= most:
                continue
            seen.add(candidate.key)
            spent += 1
            outcome = evaluate(candidate)
            if isinstance(outcome, Done) and feasible(outcome.violations):
                yield candidate, outcome
            if isinstance(outcome, Done) and excess(outcome.violations) < excess(worst):
                best, worst, moved = candidate, dict(outcome.violations), True
                break


def excess(broken: Mapping[str, float]) -> float:
    return sum(max(0.0, amount) for amount in broken.values())


def neighbours(space: SearchSpace, recipe: Recipe, broken: Mapping[str, float]) -> Iterator[Recipe]:
    """Recipes near ``recipe`` that may mend what is broken: with more recovery, then technique by technique, then decision by decision."""
    lost = broken.get("max_drop", 0.0) > 0
    dear = any(amount > 0 for name, amount in broken.items() if name != "max_drop")
    ways = ([-1] if lost else []) + ([1] if dear else []) or [-1]
    if broken == NO_FILE:
        recipe = known(space, recipe)
        if not recipe.steps:
            return
        yield recipe
    longer = recovered(recipe)
    if lost and longer is not None:
        yield longer
    domains = [domain for domain in space.domains if domain.technique != RECOVERY]
    techniques = list(dict.fromkeys(domain.technique for domain in domains))
    for way in ways:
        for technique in techniques:
            yield moved(recipe, [domain for domain in domains if domain.technique == technique], way)
        yield moved(recipe, domains, way)
        for domain in domains:
            yield moved(recipe, [domain], way)


def known(space: SearchSpace, recipe: Recipe) -> Recipe:
    """The recipe without decisions about units that the space does not know, such as layers that the model has no longer."""
    places = {(domain.technique, unit) for domain in space.domains for unit in units(domain)}
    return Recipe.of([step for step in recipe.steps if (step.technique, step.unit) in places], recipe.recovery)


def recovered(recipe: Recipe) -> Recipe | None:
    """The same steps with a longer distillation; None for recipes that need no recovery or have it already."""
    if recipe.techniques() <= {"bits"} or int(recipe.recovery.get("distill_steps", 0)) >= LONG:
        return None
    return Recipe.of(recipe.steps, {**recipe.recovery, "distill_steps": LONG})


def moved(recipe: Recipe, domains: list[Domain], way: int) -> Recipe:
    """The recipe with each of ``domains`` one choice milder (-1) or stronger (+1); those at their end stay."""
    steps = {(step.technique, step.unit): step.value for step in recipe.steps}
    for domain in domains:
        place = position(domain, steps)
        target = min(max(place + way, 0), len(domain.effects) - 1)
        if target != place:
            for unit in units(domain):
                steps.pop((domain.technique, unit), None)
            steps |= {(domain.technique, unit): value for unit, value in domain.effects[target]}
    gone = [f"{unit}." for technique, unit in steps if technique == "depth"]
    kept = [Step(*where, value) for where, value in steps.items() if where[0] == "depth" or not where[1].startswith(tuple(gone))]
    return Recipe.of(kept, recipe.recovery)


def units(domain: Domain) -> set[str]:
    return {unit for effects in domain.effects for unit, _ in effects}


def position(domain: Domain, steps: Mapping[tuple[str, str], object]) -> int:
    """The choice of the domain that the steps agree with; a decision that the domain does not know counts as its strongest."""
    for place in reversed(range(len(domain.effects))):
        effects = domain.effects[place]
        if effects and all(steps.get((domain.technique, unit)) == value for unit, value in effects):
            return place
    return len(domain.effects) - 1 if any((domain.technique, unit) in steps for unit in units(domain)) else 0
