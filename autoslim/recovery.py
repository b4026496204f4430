"""Win back accuracy without labels: layers solved anew, norms re-estimated, biases corrected, a distillation.

Every step is judged by the gap between the compressed model's outputs and the original's on held-out inputs from the train
split, and undone if it did not narrow it: more recovery is not better (small samples make re-estimation noisy, and a short
distillation can wreck a mild cut), so "nothing" is always a candidate.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from autoslim import distilling, matching, resolving
from autoslim.continuing import Trunk
from autoslim.distances import gap
from autoslim.distilling import BATCH_NORMS, CLIP
from autoslim.engine import Draft
from autoslim.hooks import watched
from autoslim.inputs import Inputs, batch_size, call
from autoslim.layers import COUNTED
from autoslim.lessons import Lesson, judge, some_of
from autoslim.pool import Pool
from autoslim.settings import ENOUGH, LOSSLESS, check

BIAS_LESSONS, NORM_LESSONS, SOLVE_LESSONS = 4, 8, 4


@dataclass(frozen=True)
class Reference:
    """What the original gives, as recovery needs it: mean outputs of its layers, their outputs on some batches, and what its layer norms
    give."""

    means: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    batches: Sequence[Inputs]
    norms: Mapping[str, matching.Statistics] = field(default_factory=dict)

    @staticmethod
    def of(teacher: nn.Module, lessons: Sequence[Lesson], pause: Callable[[], None] = lambda: None) -> "Reference":
        """What recovery compares with, from one look at the original."""
        batches = [lesson.inputs for lesson in lessons[:SOLVE_LESSONS]]
        norms = matching.statistics(teacher, [lesson.inputs for lesson in lessons[:NORM_LESSONS]], pause)
        return Reference(output_means(teacher, lessons, pause), resolving.targets(teacher, batches, pause), batches, norms)


def recover(
    draft: Draft,
    teacher: nn.Module,
    lessons: Sequence[Lesson],
    held: Sequence[Lesson],
    settings: Mapping[str, Any],
    *,
    loss: Callable[..., Tensor] | None = None,
    known: "Reference | None" = None,
    pause: Callable[[], None] = lambda: None,
    seed: int = 0,
    pool: Pool | None = None,
    trunk: Trunk | None = None,
) -> list[str]:
    """Improve ``draft.model`` in place; returns what each step did to the gap on ``held``, in words.

    ``lessons`` and ``held`` are disjoint batches of the train split. ``known`` may hand in what the
    original gave, which does not change from one candidate to the next. ``pause`` is called between batches. ``pool``: what the
    distillation learns from instead of ``lessons``; ``trunk``: where it may go on from. A draft that only sets bits is left alone: its float model is the original.
    """
    settings = check(settings)
    notes: list[str] = []
    if not (draft.kept or draft.replaced or draft.masks):
        return notes
    known = known or Reference.of(teacher, lessons, pause)
    steps: list[tuple[str, Callable[[nn.Module], None]]] = []
    if settings["resolve"] and "" not in draft.replaced:
        goals = {name: goal for name, goal in known.targets.items() if name not in draft.masks}
        steps.append(("layers solved anew", lambda model: resolving.resolve(model, goals, draft.kept, known.batches, pause)))
    if settings["bn"] and any(isinstance(module, BATCH_NORMS) for module in draft.model.modules()):
        steps.append(("batch-norm re-estimation", lambda model: reestimate(model, lessons, pause)))
    if settings["ln"] and known.norms:
        batches = [lesson.inputs for lesson in lessons[:NORM_LESSONS]]
        steps.append(("layer-norm matching", lambda model: matching.match(model, known.norms, draft.kept, batches, pause)))
    if settings["bias"]:
        steps.append(("bias correction", lambda model: correct_bias(model, known.means, draft, lessons, pause)))
    outputs = settings["outputs"]
    best = judge(draft.model, held, pause, outputs)
    for name, act in steps:
        if best <= ENOUGH and notes:  # the first step is always tried: it is the one that buys most
            notes.append(f"{name}: not needed, the gap is below {ENOUGH:g}")
            continue
        trial = copy.deepcopy(draft.model)
        try:
            act(trial)
            after = judge(trial, held, pause, outputs)
        except (RuntimeError, ValueError, IndexError) as error:  # batches of uneven shapes, singular systems, odd modules
            notes.append(f"{name}: not possible here ({' '.join(str(error).split())[:120]})")
            continue
        notes.append(f"{name}: gap {best:.4g} -> {after:.4g}, {'kept' if after < best else 'undone'}")
        if after < best:
            draft.model, best = trial, after
    if settings["distill_steps"] and best <= LOSSLESS:
        notes.append(f"distillation: not needed, the gap is below {LOSSLESS:g}")
    elif settings["distill_steps"]:
        notes += distilling.distilled(draft, teacher, pool or lessons, held, settings, best, loss, pause, seed, trunk)
    return notes


def reestimate(model: nn.Module, lessons: Sequence[Lesson], pause: Callable[[], None]) -> None:
    """Batch-norm statistics of the compressed model (Li et al. 2020, EagleEye, https://arxiv.org/abs/2007.02491)."""
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    with torch.no_grad():
        for lesson in lessons[:NORM_LESSONS]:
            pause()
            if batch_size(lesson.inputs) > 1:  # one sample has no variance
                call(model, lesson.inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def correct_bias(
    model: nn.Module, wanted: Mapping[str, Tensor], draft: Draft, lessons: Sequence[Lesson], pause: Callable[[], None]
) -> None:
    """Shift each layer's bias so that its mean output equals the original's (Nagel et al. 2019,
    https://arxiv.org/abs/1906.04721, section 4.2), in the order of execution, so that later layers see corrected inputs."""
    batches = [lesson.inputs for lesson in lessons[:BIAS_LESSONS]]
    for lesson_index, inputs in enumerate(batches):
        handles = []
        for name, module in model.named_modules():
            origin = name if name in wanted else name.rpartition(".")[0]  # the last of a factorised layer's chain has its bias
            if (
                origin in wanted
                and (origin == name or origin in draft.replaced)
                and isinstance(module, COUNTED)
                and getattr(module, "bias", None) is not None
            ):
                hook = shifter(wanted[origin], draft.kept.get((origin, "out")), 1.0 / (lesson_index + 1))
                handles.append(module.register_forward_hook(hook))
        watched(model, [inputs], handles, pause)


def shifter(wanted: Tensor, kept: Tensor | None, rate: float) -> Any:
    """A hook that moves a layer's bias towards the wanted mean and hands the corrected output on."""

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        target = wanted if kept is None else wanted[kept]
        if not isinstance(output, Tensor) or len(target) != len(module.bias):
            return None
        dim = -1 if isinstance(module, nn.Linear) else 1
        mean = output.movedim(dim, -1).reshape(-1, len(target)).mean(0)
        delta = (target - mean) * rate
        module.bias.data += delta
        shape = [1] * output.dim()
        shape[dim] = len(target)
        return output + delta.view(shape)

    return hook


def output_means(model: nn.Module, lessons: Sequence[Lesson], pause: Callable[[], None] = lambda: None) -> dict[str, Tensor]:
    """{layer: mean output per channel, (outputs,)} of the layers with a bias, over the first lessons."""
    sums: dict[str, tuple[Tensor, int]] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                flat = output.movedim(-1 if isinstance(module, nn.Linear) else 1, -1).flatten(0, -2)
                total, count = sums.get(name, (0, 0))
                sums[name] = total + flat.sum(0), count + len(flat)

        return hook

    handles = [
        module.register_forward_hook(watch(name))
        for name, module in model.named_modules()
        if isinstance(module, COUNTED) and getattr(module, "bias", None) is not None
    ]
    watched(model, [lesson.inputs for lesson in lessons[:BIAS_LESSONS]], handles, pause)
    return {name: total / count for name, (total, count) in sums.items()}


__all__ = ["ENOUGH", "CLIP", "Lesson", "Reference", "correct_bias", "gap", "judge", "recover", "reestimate", "some_of"]
