"""What to do to a model, as a plain value: the plan, which can be printed, hashed, compared and stored without tensors."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from autoslim.errors import UserError

SCHEMA = 1


@dataclass(frozen=True, order=True)
class Step:
    """One decision: do ``value`` (a plain JSON value) of ``technique`` to the unit called ``unit``.

    ``unit`` is a layer, a group of coupled layers or a block, named as the coverage report names it; "" is the whole model.
    """

    technique: str
    unit: str
    value: Any = field(compare=False)


@dataclass(frozen=True)
class Recipe:
    """A set of steps and how to recover from them. Two recipes with the same ``key`` make the same model.

    The order of the steps carries no meaning: the engine applies techniques in its own order (student, depth, channels,
    rank, sparsity, bits), and each unit has at most one step of each technique.
    """

    steps: tuple[Step, ...] = ()
    recovery: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(steps: Iterable[Step], recovery: Mapping[str, Any] | None = None) -> "Recipe":
        """The canonical recipe of these steps: sorted, and refused if one unit is decided twice by one technique."""
        ordered = tuple(sorted(steps))
        for left, right in zip(ordered, ordered[1:], strict=False):
            if left == right:
                raise UserError(f"recipe: {left.technique} decides {left.unit!r} twice ({left.value!r} and {right.value!r}); keep one")
        return Recipe(ordered, dict(sorted((recovery or {}).items())))

    def by(self, technique: str) -> dict[str, Any]:
        """{unit: value} of one technique."""
        return {step.unit: step.value for step in self.steps if step.technique == technique}

    def techniques(self) -> set[str]:
        return {step.technique for step in self.steps}

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits of the canonical form: the name of the candidate everywhere."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Nested plain data: {"schema": 1, "techniques": {technique: {unit: value}}, "recovery": {...}}."""
        nested: dict[str, dict[str, Any]] = {}
        for step in self.steps:
            nested.setdefault(step.technique, {})[step.unit] = step.value
        return {"schema": SCHEMA, "techniques": nested, "recovery": dict(self.recovery)}

    @staticmethod
    def from_dict(data: Any, source: str = "recipe") -> "Recipe":
        """The inverse of :meth:`as_dict`. Raises UserError naming the first thing that is not of the schema."""
        if not isinstance(data, Mapping) or data.get("schema") != SCHEMA:
            got = data.get("schema") if isinstance(data, Mapping) else type(data).__name__
            raise UserError(f"{source}: schema is {got!r}, allowed: {SCHEMA}; is this a recipe.yaml that AutoSlim wrote?")
        unknown = set(data) - {"schema", "techniques", "recovery", "metadata"}
        if unknown:
            raise UserError(f"{source}: unknown key {sorted(unknown, key=str)[0]!r}, allowed: schema, techniques, recovery, metadata")
        if not isinstance(data.get("recovery") or {}, Mapping):
            raise UserError(f"{source}: recovery is {data['recovery']!r}, expected a mapping such as {{distill_steps: 60}}")
        techniques = data.get("techniques") or {}
        for name, units in techniques.items() if isinstance(techniques, Mapping) else [("techniques", techniques)]:
            if not isinstance(units, Mapping):
                raise UserError(f"{source}: {name} is {units!r}, expected a mapping from unit to value")
            if wrong := [word for word in (name, *units) if not isinstance(word, str)]:
                raise UserError(f"{source}: {wrong[0]!r} is no name of a technique or unit; write names as text, such as '{wrong[0]}'")
        steps = [Step(technique, unit, value) for technique, units in techniques.items() for unit, value in units.items()]
        return Recipe.of(steps, data.get("recovery") or {})


def to_yaml(recipe: Recipe, metadata: Mapping[str, Any] | None = None) -> str:
    """The recipe as the text of a recipe.yaml; ``metadata`` is for people and does not enter the key."""
    import yaml

    data = recipe.as_dict()
    if metadata:
        data["metadata"] = dict(metadata)
    return yaml.safe_dump(data, sort_keys=True, allow_unicode=True, width=120)


def from_yaml(text: str, source: str = "recipe") -> Recipe:
    """The recipe written by :func:`to_yaml`."""
    import yaml

    try:
        return Recipe.from_dict(yaml.safe_load(text), source)
    except yaml.YAMLError as error:
        raise UserError(f"{source}: not YAML ({' '.join(str(error).split())})") from None


def describe(recipe: Recipe) -> str:
    """A short sentence for tables: what is done to how many units."""
    if not recipe.steps:
        return "untouched"
    parts = []
    for technique in sorted(recipe.techniques()):
        values = recipe.by(technique)
        if technique == "bits":
            parts.append("int" + "/".join(sorted({str(v) for v in values.values()})) + f" x{len(values)}")
        elif technique == "depth":
            parts.append(f"-{len(values)} blocks")
        elif technique == "student":
            parts.append("student " + json.dumps(next(iter(values.values())), sort_keys=True))
        else:
            plain = [
                v.get("share", v.get("threshold", v.get("keep", v.get("strength")))) if isinstance(v, Mapping) else v
                for v in values.values()
            ]
            numbers = [v for v in plain if isinstance(v, int | float)]
            span = (
                f"{min(numbers):g}-{max(numbers):g}" if numbers and min(numbers) != max(numbers) else f"{numbers[0]:g}" if numbers else "?"
            )
            parts.append(f"{technique} {span} x{len(values)}")
    return ", ".join(parts)
