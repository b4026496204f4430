"""A fixed pipeline, step by step: what each step leaves of parameters, work and accuracy, on the file that it would ship."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autoslim import fitting, packed, plugins
from autoslim.coverage import analyse
from autoslim.engine import Draft, carry_out, weight_of
from autoslim.errors import UserError
from autoslim.evaluator import Evaluator
from autoslim.importance import second_moments
from autoslim.interfaces import Unit
from autoslim.layers import trace
from autoslim.metrics import Value
from autoslim.recipe import Recipe, Step, describe
from autoslim.recovery import recover
from autoslim.structure import Structure

#: rates that are printed after every step, as (before - after) / before, where before is the untouched model
RATES = {
    "parameters": "parameters that are not zero",
    "compute": "multiply-accumulates with weights that are not zero",
    "dense": "multiply-accumulates that kernels without regard to zeros do",
    "file": "bytes of the shipped file",
    "packed": "bytes of that file as a packed file (autoslim pack)",
    "time": "median ms of one run, timed in turn with the untouched file and told at the speed that it had at first",
    "drop": "the leading metric on validation data, scored with the shipped file",
}


#: techniques after which other modules stand where layers were
RENAMING = {"rank", "student", "depth", "heads"}


@dataclass(frozen=True)
class Stage:
    """One step: what is done to which units, and how it is recovered from (None: not at all)."""

    name: str
    techniques: Mapping[str, Any]
    layers: Sequence[str] = ("*",)
    recovery: Mapping[str, Any] | None = None
    exact: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  #: {technique: {unit: value}}, of a recipe
    #: where its globs ("layers") and the values of its techniques stand, such as "FILE:LINE: steps.0.layers"
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, part: str) -> str:
        """The place of ``part``, or the step's name where none is known."""
        return self.places.get(part, f"step {self.name!r}: {part}")


@dataclass(frozen=True)
class Row:
    """What is there after a step; ``rates`` by the names of RATES, None where it cannot be told."""

    name: str
    counts: Mapping[str, float | None]
    rates: Mapping[str, float | None]
    notes: tuple[str, ...] = ()


def stages_of(recipe: Recipe) -> list[Stage]:
    """A recipe's techniques one after the other, in the engine's order, and its recovery at the end."""
    order = sorted(recipe.techniques(), key=lambda name: plugins.load("techniques", name).order)
    found = [
        Stage(describe(Recipe.of(step for step in recipe.steps if step.technique == name)), {}, exact={name: recipe.by(name)})
        for name in order
    ]
    return [*found, Stage("recovery", {}, recovery=recipe.recovery)]


def run(evaluator: Evaluator, stages: Sequence[Stage], keep: Path | None = None) -> Iterator[Row]:
    """A row for the untouched model and one after each stage; ``keep`` is a folder for the files of all steps.

    Raises UserError for steps that find no unit, before any work for all of which that is known then; Untreatable for one that cannot be done.
    """
    if wrong := lost(stages, analyse(evaluator.model, evaluator.example)):
        raise UserError("\n".join(wrong))
    lessons, held, calibration = evaluator.materials.lessons()
    model = copy.deepcopy(evaluator.model).eval()
    draft = Draft(model, analyse(model, evaluator.example), evaluator.example, calibration, {}, evaluator.task.students(evaluator.model))
    draft.initial = evaluator.task.initial
    folder = keep or evaluator.out / "steps"
    untouched = evaluator.untouched_file()
    if not untouched.is_file():
        evaluator.export(draft, calibration, untouched)
    first = counted(evaluator, draft, ship(evaluator, draft, calibration, folder / f"0{evaluator.runtime.suffix}"))
    speed = evaluator.time(untouched, untouched)["latency_ms"].value
    first["time"] = speed
    yield Row("untouched", first, rates(first, first), evaluator.task.notes)
    for number, stage in enumerate(stages, 1):
        told = len(draft.notes)
        for technique in sorted({*stage.techniques, *stage.exact}, key=lambda name: plugins.load("techniques", name).order):
            act(draft, technique, stage)
        notes = list(draft.notes[told:])
        if stage.recovery is not None:
            loss = evaluator.task.loss() if evaluator.has_targets else None
            notes += recover(draft, evaluator.model, lessons, held, stage.recovery, loss=loss, seed=evaluator.job.seed)
        path = ship(evaluator, draft, calibration, folder / f"{number}{evaluator.runtime.suffix}")
        found = counted(evaluator, draft, path)
        ratio = evaluator.time(path, untouched)["latency_ratio"]
        found["time"] = speed * ratio.value
        yield Row(stage.name, found, rates(first, found), (*notes, *slower(ratio)))


def slower(ratio: Value) -> list[str]:
    """What there is to say of a file that takes, for certain, more of the untouched file's time than 1."""
    sure = ratio.value if ratio.low is None else ratio.low
    return (
        [f"this file is slower than the untouched one: {ratio.value:.3g} of its time; autoslim why FILE tells the kernels"]
        if sure > 1
        else []
    )


def act(draft: Draft, technique: str, stage: Stage) -> None:
    """Do one technique of a stage to the model as it is now; what earlier steps promised stays promised.
    Raises UserError for a step that finds no unit in its layers."""
    draft.structure = analyse(draft.model, draft.example)
    draft.moments = second_moments(draft.model, draft.samples)
    member = plugins.load("techniques", technique)
    units = member.units(draft.structure)
    chosen = stage.exact.get(technique) or dict.fromkeys(matched(stage, units), stage.techniques[technique])
    if not chosen:
        raise UserError(no_unit(stage, technique, units))
    steps = [Step(technique, name, value) for name, value in chosen.items()]
    earlier, draft.kept = draft.kept, {}
    carry_out(draft, Recipe.of(steps))
    draft.kept = composed(earlier, draft.kept)
    settle(draft)


def matched(stage: Stage, units: Mapping[str, Unit]) -> list[str]:
    """The units that the globs of a stage name."""
    return [name for name, unit in units.items() if fitting.chosen(unit, stage.layers, ())]


def no_unit(stage: Stage, technique: str, units: Mapping[str, Unit]) -> str:
    """What is said of globs that name no unit of a technique."""
    there = {label for unit in units.values() for label in (unit.name, *unit.layers)}
    allowed = (
        f"globs that do, such as {fitting.alike(stage.layers[0] if stage.layers else '', there)}"
        if there
        else "none, this network has none"
    )
    return f"{stage.place('layers')} is {list(stage.layers)!r}, which matches no unit of {technique}, allowed: {allowed}"


def lost(stages: Sequence[Stage], structure: Structure) -> list[str]:
    """A line for each technique of the stages whose globs name no unit, as far as names are known before any work (up to the first stage that
    gives layers other names), and for each value that it does not take."""
    found = []
    for stage in stages:
        for technique, value in stage.techniques.items():
            member = plugins.load("techniques", technique)
            units = member.units(structure)
            if not (own := matched(stage, units)):
                found.append(no_unit(stage, technique, units))
                continue
            try:
                member.effective(units[own[0]], value)
            except UserError as error:
                found.append(f"{stage.place(technique)} is {value!r}, allowed: {str(error).rpartition('allowed: ')[2]}")
        if RENAMING & {*stage.techniques, *stage.exact}:
            break
    return found


def composed(earlier: Mapping[tuple, Tensor], later: Mapping[tuple, Tensor]) -> dict[tuple, Tensor]:
    """Indices into the original's channels, where ``later`` are indices into what ``earlier`` kept."""
    return {**earlier, **{key: earlier[key][kept] if key in earlier else kept for key, kept in later.items()}}


def settle(draft: Draft) -> None:
    """Fit the promises of earlier steps to layers that were cut since: zeros stay zero, levels hold where the shape is the same."""
    for name, mask in list(draft.masks.items()):
        try:
            weight = weight_of(draft.model, name).detach()
        except AttributeError:  # it was replaced, or removed
            del draft.masks[name]
            continue
        if weight.shape != mask.shape:
            draft.masks[name] = (weight != 0).to(weight.dtype)
    modules = dict(draft.model.named_modules())
    for name in list(draft.projections):
        weight = getattr(modules.get(name), "weight", None)
        if weight is None or draft.projections[name](weight.detach().clone()).shape != weight.shape:
            del draft.projections[name]
            draft.notes.append(f"codebook: {name} was cut since, its weights may take any value while they learn")


def ship(evaluator: Evaluator, draft: Draft, calibration: Sequence, path: Path) -> Path:
    """The file of a draft as it is now."""
    base, untouched = evaluator.out / f"stage{path.suffix}", evaluator.untouched_file()
    shapes = {} if evaluator.task.dynamic_shapes is None else {"dynamic_shapes": evaluator.task.dynamic_shapes}
    plain = replace(draft, bits={})
    evaluator.runtime.export(plain, evaluator.example, calibration, base, original=(untouched, evaluator.model), **shapes)
    evaluator.runtime.finish(draft, base, calibration, path)
    return path


def counted(evaluator: Evaluator, draft: Draft, path: Path) -> dict[str, float | None]:
    """{name of RATES: count} of a step; the time is not measured here."""
    live = sum(int((parameter != 0).sum()) for parameter in draft.model.parameters())
    layers, _ = trace(draft.model, evaluator.example)
    score = evaluator.score(path, evaluator.untouched_file(), None)
    return {
        "parameters": float(live),
        "compute": sum(layer.macs * density(draft.model.get_submodule(name)) for name, layer in layers.items()),
        "dense": float(sum(layer.macs for layer in layers.values())),
        "file": float(path.stat().st_size),
        "packed": float(packed.packed_bytes(path)) if path.suffix == ".onnx" else None,
        "time": None,
        "drop": float(next(iter(score.values.values()))),
    }


def density(module: torch.nn.Module) -> float:
    """Share of a layer's weights that are not zero; biases do not count."""
    weights = [parameter for name, parameter in module.named_parameters() if parameter.dim() > 1] or list(module.parameters())
    return sum(int((weight != 0).sum()) for weight in weights) / max(sum(weight.numel() for weight in weights), 1)


def rates(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> dict[str, float | None]:
    """(before - after) / before of each count."""
    return {name: None if before[name] is None or not before[name] else (before[name] - after[name]) / before[name] for name in before}
