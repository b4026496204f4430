"""Turn a recipe into a compressed copy of a model. The caller's model is never changed."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import heads, plugins
from autoslim.baking import baked
from autoslim.coverage import analyse
from autoslim.errors import Untreatable, UserError
from autoslim.importance import second_moments
from autoslim.inputs import Inputs, call, shapes
from autoslim.recipe import Recipe
from autoslim.structure import Axis, Structure


@dataclass
class Draft:
    """A compressed model in the making, and what the runtime and the recovery must know about it.

    ``masks``: {layer, or matrix of a recurrent layer: zeros and ones in the shape of its weight}; ``bits``: {layer: bit-width}; ``kept``: {(module, axis):
    kept indices}; ``moments``: {layer: E[x^2] per input channel}; ``replaced``: names whose module is another one now;
    ``initial``: gives the original's weights before its training, for a recovery that goes back to them;
    ``projections``: {layer: from a weight to the nearest allowed one}, for weights that may take few values only.
    """

    model: nn.Module
    structure: Structure
    example: Inputs
    samples: Sequence[Inputs] = ()
    moments: Mapping[str, Tensor] = field(default_factory=dict)
    students: Mapping[str, Callable[..., nn.Module]] = field(default_factory=dict)
    initial: Callable[[], Mapping[str, Tensor]] | None = None
    teacher: nn.Module | None = None
    masks: dict[str, Tensor] = field(default_factory=dict)
    bits: dict[str, int] = field(default_factory=dict)
    kept: dict[tuple[str, Axis], Tensor] = field(default_factory=dict)
    replaced: set[str] = field(default_factory=set)
    projections: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether a module of that name is still there."""
        return any(name == present for present, _ in self.model.named_modules())

    def replace(self, name: str, module: nn.Module) -> None:
        """Put ``module`` in the place called ``name``."""
        parent, _, leaf = name.rpartition(".")
        heads.stand_in(self.model.get_submodule(name), module)
        setattr(self.model.get_submodule(parent), leaf, module.eval())
        self.replaced.add(name)
        heads.unfuse(self.model)

    def parts(self, name: str) -> Iterator[tuple[str, nn.Module]]:
        """(full name, module) of the layers with a weight that now stand where layer ``name`` stood."""
        if not self.has(name):
            return
        for inner, module in self.model.get_submodule(name).named_modules():
            if getattr(module, "weight", None) is not None:
                yield f"{name}.{inner}" if inner else name, module

    def twins(self) -> list[tuple[str, str]]:
        """(name, other name) of the modules with parameters that are in several places of the model."""
        first: dict[nn.Module, str] = {}
        names = [(name, first.setdefault(module, name)) for name, module in self.model.named_modules(remove_duplicate=False)]
        return [(one, name) for name, one in names if one != name and any(True for _ in self.model.get_submodule(name).parameters())]

    def constrain(self, model: nn.Module) -> None:
        """Give the weights of ``model``, which were changed by learning, back what the recipe promises: zeros and levels."""
        for name, mask in self.masks.items():
            weight_of(model, name).data.mul_(mask).add_(0.0)  # no negative zeros
        for name, project in self.projections.items():
            weight = model.get_submodule(name).weight
            weight.data.copy_(project(weight.detach()))

    def rebuild(self, builder: str) -> None:
        """Swap the whole model for what the user's builder makes. Raises UserError for a builder that the task has not."""
        if builder not in self.students:
            allowed = ", ".join(sorted(self.students)) or "none; the task defines no students()"
            raise UserError(f"student: builder is {builder!r}, allowed: {allowed}")
        self.model = self.students[builder]().eval()
        self.replaced.add("")
        self.restructure()

    def restructure(self) -> None:
        """Look at the model afresh after its shape changed as a whole."""
        self.structure = analyse(self.model, self.example)
        self.moments = second_moments(self.model, self.samples)


def weight_of(model: nn.Module, name: str) -> Tensor:
    """The weight of a layer, or the parameter of that name: a matrix of a recurrent layer. Raises AttributeError where there is none."""
    owner, _, leaf = name.rpartition(".")
    held = getattr(model.get_submodule(owner), leaf)
    return held if isinstance(held, Tensor) else held.weight


def compress(
    model: nn.Module,
    recipe: Recipe,
    samples: Sequence[Inputs],
    *,
    structure: Structure | None = None,
    moments: Mapping[str, Tensor] | None = None,
    students: Mapping[str, Callable[..., nn.Module]] | None = None,
) -> Draft:
    """A compressed copy of ``model`` by ``recipe``; recovery is a step of its own (recovery.recover).

    ``samples`` are unlabelled input batches (train data); the first is also the example of shapes. ``structure`` and
    ``moments`` may be handed in to save their computation. Raises Untreatable if the recipe cannot be done to this model,
    UserError for an unknown technique.
    """
    example = samples[0]
    plain = baked(model, example)
    model = (copy.deepcopy(plain) if plain is model else plain).eval()
    structure = structure or analyse(model, example)
    moments = second_moments(model, samples) if moments is None else moments
    draft = Draft(model, structure, example, samples, moments, students or {})
    carry_out(draft, recipe)
    return draft


def carry_out(draft: Draft, recipe: Recipe) -> None:
    """Do what a recipe says to a draft, in place; raises as :func:`compress`. ``draft.structure`` must be that of its model."""
    structure = draft.structure
    with torch.no_grad():
        before = shapes(call(draft.model, draft.example))
    members = {name: plugins.load("techniques", name) for name in sorted(recipe.techniques())}
    for name, member in sorted(members.items(), key=lambda pair: pair[1].order):
        choices = recipe.by(name)
        refuse_unknown(name, known := member.units(structure), choices)
        choices = {unit: done for unit, value in choices.items() if (done := member.effective(known[unit], value)) is not None}
        present = member.units(draft.structure)
        member.apply(draft, inherited(name, member, choices, present, draft.notes))
        verify_shapes(draft, name, before)


def inherited(name: str, member: Any, choices: Mapping[str, Any], present: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """The choices for the units that there are now: those of a layer that an earlier step made into several (``unit.0``, ``unit.1``)
    go to each of them, and of one that went, ``notes`` tell."""
    found = {unit: value for unit, value in choices.items() if unit in present}
    for unit in choices:
        heirs = [] if unit in present else [heir for heir in present if heir.startswith(unit + ".")]
        told = {heir: done for heir in heirs if (done := member.effective(present[heir], choices[unit])) is not None}
        found |= {heir: value for heir, value in told.items() if heir not in found}
        if unit not in present and not heirs:
            notes.append(f"{name}: {unit} went with an earlier step")
    return found


def refuse_unknown(technique: str, units: Mapping[str, object], choices: Mapping[str, object]) -> None:
    """Raise Untreatable naming the first unit of the recipe that this model does not have."""
    for name in choices:
        if name not in units:
            raise Untreatable(
                f"{technique}: this model has no unit {name!r}; the recipe was made for another architecture "
                f"(its units: {', '.join(list(units)[:4])}{', ...' if len(units) > 4 else ''})"
            )


def verify_shapes(draft: Draft, technique: str, before: list[tuple[int, ...]]) -> None:
    """Raise Untreatable if the model no longer runs, or gives other shapes than the original."""
    try:
        with torch.no_grad():
            after = shapes(call(draft.model, draft.example))
    except (RuntimeError, ValueError, IndexError, AttributeError, TypeError, AssertionError) as error:
        raise Untreatable(f"{technique}: the model no longer runs ({' '.join(str(error).split())[:200]})") from error
    if after != before:
        raise Untreatable(f"{technique}: the outputs have shapes {after}, expected {before}")
