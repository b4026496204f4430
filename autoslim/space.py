"""The set of recipes that a search may ask for: flat, finite domains, each bound to the units it decides."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoslim.candidate import Point
from autoslim.recipe import Recipe, Step

RECOVERY = "recovery"
#: labels of the trivial rivals; that of channels goes on with the share that stays
INT8, CHANNELS = "uniform-int8", "uniform-channels"
#: how units may be tied into one decision: each alone, by parent module, by stage of the network, all together
TIES = ("none", "block", "stage", "all")
#: techniques that make no file of a runtime smaller or faster, but packed ones or what they recover
SAVES_NOTHING = ("sparsity", "gradual", "regularised", "codebook", "qat", RECOVERY)


@dataclass(frozen=True)
class Domain:
    """One decision of the search.

    ``choices`` are plain scalars, mildest first, as tables and dashboards show them. ``effects[i]`` lists what choice i does:
    (unit, effective value) pairs; a choice that changes nothing has none. ``ordered`` says that neighbours are alike, so
    that samplers may treat the choice as a number.
    """

    name: str
    technique: str
    choices: tuple[Any, ...]
    effects: tuple[tuple[tuple[str, Any], ...], ...]
    ordered: bool = False

    @property
    def identity(self) -> Any:
        """The choice that changes least: the one without effects, else the first."""
        return next((choice for choice, effect in zip(self.choices, self.effects, strict=True) if not effect), self.choices[0])


@dataclass(frozen=True)
class SearchSpace:
    """Domains by name. Every combination of choices is a point, every point decodes to one canonical recipe."""

    domains: tuple[Domain, ...]
    fixed_recovery: Mapping[str, Any]

    def decode(self, point: Point) -> Recipe:
        """The recipe of a point. A recipe that removes nothing needs no recovery and carries none."""
        steps: list[Step] = []
        recovery = dict(self.fixed_recovery)
        for domain in self.domains:
            index = domain.choices.index(point[domain.name])
            if domain.technique == RECOVERY:
                recovery[domain.name.split(":", 1)[1]] = point[domain.name]
            else:
                steps += [Step(domain.technique, unit, value) for unit, value in domain.effects[index]]
        gone = [step.unit for step in steps if step.technique == "depth"]
        steps = [step for step in steps if step.technique == "depth" or not any(step.unit.startswith(block + ".") for block in gone)]
        steps = together(steps)
        changed = {step.technique for step in steps} - {"bits"}
        return Recipe.of(steps, recovery if changed else {})

    def places(self, point: Point) -> tuple[int, ...]:
        """A point as the places of its choices, in the order of the domains."""
        return tuple(domain.choices.index(point[domain.name]) for domain in self.domains)

    def identity(self) -> dict[str, Any]:
        """The point that leaves the model untouched."""
        return {domain.name: domain.choices[-1] if domain.technique == RECOVERY else domain.identity for domain in self.domains}

    def uniform(self, **values: int) -> dict[str, Any]:
        """All domains of the named techniques at the same position of their choices, the others at their identity."""
        point = self.identity()
        for domain in self.domains:
            if domain.technique in values:
                point[domain.name] = domain.choices[min(values[domain.technique], len(domain.choices) - 1)]
        return point

    def depth_of(self, technique: str) -> int:
        """Largest number of choices that a domain of the technique has; 0 where it has no domain."""
        return max((len(domain.choices) for domain in self.domains if domain.technique == technique), default=0)

    def strongest(self) -> dict[str, Any]:
        """The corner that bounds what a search can reach: every decision that saves something at its last choice. Students, whose training is
        what they cost, with the fewest steps of distillation."""
        point = self.uniform(**dict.fromkeys({domain.technique for domain in self.domains} - {*SAVES_NOTHING}, 10000))
        steps = next((domain for domain in self.domains if domain.name == f"{RECOVERY}:distill_steps"), None)
        if steps is not None and self.depth_of("student"):
            point[steps.name] = min(steps.choices)
        return point

    def corners(self) -> list[dict[str, Any]]:
        """:meth:`strongest`, and what may be faster or smaller: the same with other widths than the last, since kernels of eight bits are faster
        than those of four and a small float network than its integer form; and all of them at full rank, since each factor is a kernel more."""
        strongest = self.strongest()
        ranks = {domain.name: domain.identity for domain in self.domains if domain.technique == "rank"}
        found = [
            {**point, **{name: value for name, value in self.uniform(bits=position).items() if name.startswith("bits:")}}
            for point in (strongest, {**strongest, **ranks})
            for position in reversed(range(max(1, self.depth_of("bits"))))
        ]
        return list({json.dumps(point, sort_keys=True): point for point in found}.values())

    def grid(self) -> list[dict[str, Any]]:
        """Uniform points worth knowing before any search: each technique alone at each of its values, and with fewest bits."""
        lowest = {"bits": 10_000} if self.depth_of("bits") > 1 else {}
        points = [self.identity()] + ([self.uniform(**lowest)] if lowest else [])
        shrinking = [name for name in dict.fromkeys(domain.technique for domain in self.domains) if name not in ("bits", RECOVERY)]
        # one bit-width after the other: recipes that differ in bits alone share the recovered weights of the one before
        for extra in (lowest, {}) if lowest else ({},):
            points += [
                self.uniform(**{technique: position, **extra}) for technique in shrinking for position in range(self.depth_of(technique))
            ]
        points.append(self.strongest())
        unique = {json.dumps(point, sort_keys=True): point for point in points}
        return list(unique.values())

    def rivals(self) -> dict[str, dict[str, Any]]:
        """The trivial rivals that every report shows, by label: uniform int8 and uniform channel pruning at two ratios."""
        found: dict[str, dict[str, Any]] = {}
        widths = next((domain.choices for domain in self.domains if domain.technique == "bits" and 8 in domain.choices), None)
        if widths is not None:
            found[INT8] = self.uniform(bits=widths.index(8))
        values = next(
            (
                domain.choices
                for domain in self.domains
                if domain.technique == "channels" and len(domain.choices) == self.depth_of("channels")
            ),
            (),
        )
        for position in range(1, min(3, len(values))):
            found[f"{CHANNELS}-{values[position]}"] = self.uniform(channels=position)
        return found

    def narrow_twins(self) -> list[dict[str, Any]]:
        """The rivals of fewer channels again in int8: what a fixed pipeline of both does, as points of this space. They share the recovered
        weights of the rivals. None where no layer has a choice of int8."""
        rivals = self.rivals()
        narrow = {domain.name: rivals[INT8][domain.name] for domain in self.domains if domain.technique == "bits"} if INT8 in rivals else {}
        return [point | narrow for label, point in rivals.items() if narrow and label.startswith(CHANNELS)]

    @property
    def size(self) -> int:
        """How many points there are."""
        return int(_product(len(domain.choices) for domain in self.domains))

    def points(self) -> Any:
        """Every point, for small spaces and tests."""
        for choices in itertools.product(*(domain.choices for domain in self.domains)):
            yield {domain.name: choice for domain, choice in zip(self.domains, choices, strict=True)}


def parent(name: str) -> str:
    """The module that a unit stands in; its own name at the top of the tree."""
    return name.rpartition(".")[0] or name


def stage(name: str) -> str:
    """The first numbered place of the module tree: stages.1.0.conv1 -> stages.1, layer2.0.conv1 -> layer2."""
    words = name.split(".")
    for index, word in enumerate(words):
        if any(character.isdigit() for character in word):
            return ".".join(words[: index + 1])
    return words[0]


def _product(numbers: Any) -> int:
    total = 1
    for number in numbers:
        total *= number
    return total


def together(steps: list[Step]) -> list[Step]:
    """The steps, with what several domains decide about one unit, a mapping each, in one mapping; other doubles are left as they are."""
    found: list[Step] = []
    for step in steps:
        place = next((i for i, known in enumerate(found) if known == step), None)
        if place is not None and isinstance(found[place].value, Mapping) and isinstance(step.value, Mapping):
            found[place] = Step(step.technique, step.unit, {**found[place].value, **step.value})
        else:
            found.append(step)
    return found
