"""Win back accuracy without labels: layers solved anew, batch norms re-estimated, biases corrected, a short distillation.

Every step is judged by the gap between the compressed model's outputs and the original's on held-out inputs from the train
split, and undone if it did not narrow it: more recovery is not better (small samples make re-estimation noisy, and a short
distillation can wreck a mild cut), so "nothing" is always a candidate.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoslim import host, resolving
from autoslim.engine import Draft
from autoslim.inputs import Inputs, batch_size, call, tensors
from autoslim.layers import COUNTED
from autoslim.settings import check

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CLIP = 1.0
BIAS_LESSONS, NORM_LESSONS, SOLVE_LESSONS = 4, 8, 4
#: a gap (nats of KL divergence, or relative squared error) that no further step is spent on
ENOUGH = 0.005


@dataclass(frozen=True)
class Lesson:
    """One batch to learn from: inputs, the original's outputs, and the targets (None where the task has none)."""

    inputs: Inputs
    outputs: Any
    targets: Any = None


@dataclass(frozen=True)
class Reference:
    """What the original gives, as recovery needs it: mean outputs of its layers, and their outputs on some batches."""

    means: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    batches: Sequence[Inputs]

    @staticmethod
    def of(teacher: nn.Module, lessons: Sequence[Lesson], pause: Callable[[], None] = lambda: None) -> "Reference":
        batches = [lesson.inputs for lesson in lessons[:SOLVE_LESSONS]]
        return Reference(output_means(teacher, lessons, pause), resolving.targets(teacher, batches, pause), batches)


def gap(outputs: Any, reference: Any) -> Tensor:
    """How far outputs are from the original's, a scalar that can be differentiated.

    Class scores, one (n, classes) tensor: the KL divergence from the original's distribution (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531, temperature 1). Anything else: mean squared error of every floating tensor, in units of
    the original's own mean square.
    """
    got, want = tensors(outputs), tensors(reference)
    if len(want) == 1 and want[0].dim() == 2 and want[0].shape[1] > 1 and want[0].is_floating_point():
        return F.kl_div(F.log_softmax(got[0], 1), F.log_softmax(want[0], 1), reduction="batchmean", log_target=True)
    errors = [F.mse_loss(a, b) / b.square().mean().clamp_min(1e-12) for a, b in zip(got, want, strict=True) if b.is_floating_point()]
    if not errors:
        return torch.zeros(())
    return torch.stack(errors).mean()


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
) -> list[str]:
    """Improve ``draft.model`` in place; returns what each step did to the gap on ``held``, in words.

    ``lessons`` and ``held`` are disjoint batches of the train split. ``known`` may hand in what the
    original gave, which does not change from one candidate to the next. ``pause`` is called between batches. A draft that only
    sets bits is left alone: its float model is the original.
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
    if settings["bias"]:
        steps.append(("bias correction", lambda model: correct_bias(model, known.means, draft, lessons, pause)))
    best = judge(draft.model, held, pause)
    for name, act in steps:
        if best <= ENOUGH and notes:  # the first step is always tried: it is the one that buys most
            notes.append(f"{name}: not needed, the gap is below {ENOUGH:g}")
            continue
        trial = copy.deepcopy(draft.model)
        try:
            act(trial)
            after = judge(trial, held, pause)
        except (RuntimeError, ValueError, IndexError) as error:  # batches of uneven shapes, singular systems, odd modules
            notes.append(f"{name}: not possible here ({' '.join(str(error).split())[:120]})")
            continue
        notes.append(f"{name}: gap {best:.4g} -> {after:.4g}, {'kept' if after < best else 'undone'}")
        if after < best:
            draft.model, best = trial, after
    if settings["distill_steps"] and best <= ENOUGH:
        notes.append(f"distillation: not needed, the gap is below {ENOUGH:g}")
    elif settings["distill_steps"]:
        draft.model, after, step = distil(draft, lessons, held, settings, best, loss, pause, seed)
        notes.append(f"distillation: gap {best:.4g} -> {after:.4g} at step {step} of {int(settings['distill_steps'])}")
    return notes


def judge(model: nn.Module, held: Sequence[Lesson], pause: Callable[[], None]) -> float:
    """Mean gap over the held-out batches; infinite where it is not a number."""
    total = 0.0
    with torch.no_grad():
        for lesson in held:
            pause()
            total += float(gap(call(model, lesson.inputs), lesson.outputs))
    mean = total / max(len(held), 1)
    return mean if mean == mean else float("inf")


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
        pause()
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
        try:
            with torch.no_grad():
                call(model, inputs)
        finally:
            for handle in handles:
                handle.remove()


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
    try:
        with torch.no_grad():
            for lesson in lessons[:BIAS_LESSONS]:
                pause()
                call(model, lesson.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / count for name, (total, count) in sums.items()}


@torch.enable_grad()  # whatever mode the task's own code left behind
def distil(
    draft: Draft,
    lessons: Sequence[Lesson],
    held: Sequence[Lesson],
    settings: Mapping[str, Any],
    start: float,
    loss: Callable[..., Tensor] | None,
    pause: Callable[[], None],
    seed: int,
) -> tuple[nn.Module, float, int]:
    """(best model, its gap, the step it was reached at); step 0, the model as it came, always takes part.

    Adam with a short warm-up, a cosine schedule and clipped gradients on the gap to the original's outputs, plus ``labels``
    times the task's loss where the task has targets. On processors with bfloat16 units the forward and backward passes run in
    that type (measured three times faster); weights, optimizer and every judgement stay in float32. Batch-norm statistics
    stay fixed; zeros of sparse layers stay zero. Raises nothing: a divergence loses to step 0.
    """
    model = copy.deepcopy(draft.model).eval()
    total, weight = int(settings["distill_steps"]), float(settings["labels"])
    trainable = [parameter.requires_grad_(True) for parameter in model.parameters() if parameter.is_floating_point()]
    optimizer = torch.optim.Adam(trainable, lr=float(settings["lr"]))
    warm_up = max(1, total // 6)

    def pace(step: int) -> float:
        rising = (step + 1) / warm_up
        return min(rising, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm_up) / max(1, total - warm_up)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, pace)
    low_precision = "avx512_bf16" in host.instruction_sets()
    generator = torch.Generator().manual_seed(seed)
    best, best_model, best_step = start, draft.model, 0
    order: list[int] = []
    for step in range(1, total + 1):
        pause()
        if not order:
            order = torch.randperm(len(lessons), generator=generator).tolist()
        lesson = lessons[order.pop()]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low_precision):
            outputs = call(model, lesson.inputs)
        outputs = pytree.tree_map(lambda leaf: leaf.float() if isinstance(leaf, Tensor) and leaf.dtype == torch.bfloat16 else leaf, outputs)
        objective = gap(outputs, lesson.outputs)
        if weight and loss is not None and lesson.targets is not None:
            objective = objective + weight * loss(outputs, lesson.targets, lesson.inputs)
        optimizer.zero_grad()
        objective.backward()
        nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        schedule.step()
        draft.constrain(model)
        if step == total or step % max(total // 4, 1) == 0:
            found = judge(model, held, pause)
            if found < best:
                best, best_model, best_step = found, copy.deepcopy(model), step
    return best_model, best, best_step
