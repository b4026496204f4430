"""A distillation: a compressed network learns from the original, by soft labels, hints from inside, and the task's own loss."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from autoslim import hints, optimizing, rewinding
from autoslim.continuing import Course, Trunk
from autoslim.engine import Draft
from autoslim.errors import Untreatable
from autoslim.inputs import batch_size, call
from autoslim.lessons import Lesson, apart, judge, mean_of
from autoslim.narrow import channels_last, gains, widened
from autoslim.pool import STEP, Pool, drawn
from autoslim.settings import STABLE

CLIP = 1.0
#: apart by so much, the steps of two seeds never draw alike
SEEDS = 1_000_003
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def distilled(
    draft: Draft,
    teacher: nn.Module,
    lessons: Sequence[Lesson] | Pool,
    held: Sequence[Lesson],
    settings: Mapping[str, Any],
    best: float,
    loss: Callable[..., Tensor] | None,
    pause: Callable[[], None],
    seed: int,
    trunk: Trunk | None = None,
) -> list[str]:
    """Distil ``draft.model``, whose gap is ``best``, from where it is or from rewound weights; returns notes. It is left as it was where
    that does not narrow the gap; with labels, where it does not lessen what :meth:`Curriculum.judge` says."""
    steps = int(settings["distill_steps"])
    pupil = draft.model
    if settings["rewind"]:
        try:
            pupil = rewinding.rewound(draft, teacher, rewinding.state_of(settings["rewind"], draft))
        except Untreatable as error:
            return [str(error)]
    curriculum = Curriculum.of(draft, pupil, teacher, lessons, settings, loss)
    if not curriculum.teaches:
        return ["distillation: nothing to learn from (soft, labels, hints and attention are 0, or have nothing to act on)"]
    if settings["eased"] and not settings["rewind"] and curriculum.loss is None:
        settings = {**settings, "lr": float(settings["lr"]) * optimizing.eased(settings["optimizer"], best)}
    best = best if curriculum.loss is None else curriculum.judge(draft.model, held, pause)
    start = float("inf") if settings["rewind"] else best
    model, after, step = distil(draft, pupil, curriculum, lessons, held, settings, start, pause, seed, trunk)
    name = "distillation from rewound weights" if settings["rewind"] else "distillation"
    told = f"{name}: {'gap' if curriculum.loss is None else 'gap and labels'} {best:.4g} -> {after:.4g}"
    if settings["rewind"] and not after < best:
        return [*curriculum.notes, f"{told}, undone"]
    draft.model = model
    return [*curriculum.notes, f"{told} at step {step} of {steps}"]


@dataclass(frozen=True)
class Curriculum:
    """What a distillation learns from: soft labels, the task's loss and hints, each with its weight."""

    teacher: nn.Module
    settings: Mapping[str, Any]
    loss: Callable[..., Tensor] | None
    hints: hints.Hints
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(
        draft: Draft,
        pupil: nn.Module,
        teacher: nn.Module,
        lessons: Sequence[Lesson] | Pool,
        settings: Mapping[str, Any],
        loss: Callable[..., Tensor] | None,
    ) -> "Curriculum":
        """What ``settings`` ask for, as far as the networks and the data have it, with notes on what they lack. ``loss``: the task's
        own."""
        places: list[hints.Place] = []
        told: list[str] = []
        notes = []
        first = lessons.lesson(torch.arange(min(lessons.size, STEP))) if isinstance(lessons, Pool) else lessons[0]
        if settings["hints"] or settings["attention"]:
            places = hints.find(draft, pupil, teacher, first.inputs)
            notes.append(f"hints at {', '.join(place.name for place in places) or 'no place, the networks have none in common'}")
            if settings["attention"]:
                told = hints.told(pupil, teacher, first.inputs)
                notes += [f"attention maps of {', '.join(told)}"] if told else []
            if settings["attention"] and not told and all(place.form == "vector" for place in places):
                notes.append("attention: outputs there have no positions, so there are no maps to compare")
        hinted = hints.Hints(places, float(settings["hints"]), float(settings["attention"]), told)
        labelled = settings["labels"] and loss is not None and first.targets is not None
        if settings["labels"] and not labelled:
            notes.append("labels: the task has no targets, its loss takes no part")
        return Curriculum(teacher, settings, loss if labelled else None, hinted, tuple(notes))

    @property
    def teaches(self) -> bool:
        return bool(self.settings["soft"] or self.loss is not None or self.hints)

    def judge(self, model: nn.Module, held: Sequence[Lesson], pause: Callable[[], None]) -> float:
        """What held-out lessons say of a model: the gap, and with labels the weighted sum of the gap and the task's loss; infinite where it
        is not a number."""
        if self.loss is None:
            return judge(model, held, pause, self.settings["outputs"])

        def told(outputs: Any, lesson: Lesson) -> Tensor:
            gap = apart(outputs, lesson, self.settings["outputs"])
            return self.settings["soft"] * gap + self.settings["labels"] * self.loss(outputs, lesson.targets, lesson.inputs)

        return mean_of(told, model, held, pause)

    def objective(self, model: nn.Module, lesson: Lesson, narrow: bool) -> Tensor:
        """The loss of one step; ``narrow``: the model runs in bfloat16."""
        with self.hints.seen(model) as mine, torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow):
            outputs = pytree.tree_map(widened, call(model, lesson.inputs))
        total = torch.zeros(())
        if self.settings["soft"]:
            total = self.settings["soft"] * apart(outputs, lesson, self.settings["outputs"], float(self.settings["temperature"]))
        if self.loss is not None and lesson.targets is not None:
            total = total + self.settings["labels"] * self.loss(outputs, lesson.targets, lesson.inputs)
        if self.hints:
            with torch.no_grad(), self.hints.seen(self.teacher) as theirs:
                call(self.teacher, lesson.inputs)
            total = total + self.hints.loss(mine, theirs)
        return total


@torch.enable_grad()  # whatever mode the task's own code left behind
def distil(
    draft: Draft,
    pupil: nn.Module,
    curriculum: Curriculum,
    lessons: Sequence[Lesson] | Pool,
    held: Sequence[Lesson],
    settings: Mapping[str, Any],
    start: float,
    pause: Callable[[], None],
    seed: int,
    trunk: Trunk | None = None,
) -> tuple[nn.Module, float, int]:
    """(best model, its gap, or what the curriculum judges it by, the step it was reached at); step 0, the ``pupil`` as it came with the
    gap ``start``, always takes part.

    By default Adam with a short warm-up and a cosine schedule (optimizing.py has the others), and clipped gradients. On processors with
    fast bfloat16 units the forward and backward passes run in that type (see narrow.py); weights, optimizer and every judgement stay in
    float32. Batch-norm statistics stay fixed, or with ``norms: learned`` are those of each batch and followed; zeros of sparse layers stay
    zero. With ``schedule: stable`` it goes on from where a shorter one in ``trunk`` parted, and is judged at its end alone, so that it ends
    alike either way. Raises nothing: a divergence loses to step 0.
    """
    model, total = laid_out(copy.deepcopy(pupil).eval(), lessons), int(settings["distill_steps"])
    trainable = [parameter.requires_grad_(True) for parameter in model.parameters() if parameter.is_floating_point()]
    beside = curriculum.hints.parameters()
    trainable += beside
    optimizer = optimizing.optimizer(settings["optimizer"], trainable, float(settings["lr"]), float(settings["weight_decay"]))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: optimizing.pace(settings["schedule"], step, total))
    narrow = gains(model)
    generator = torch.Generator().manual_seed(seed)
    best, best_model, best_step = start, pupil, 0
    course = Course(model, optimizer, schedule, beside)
    taken = course.begun(trunk, settings)
    source = drawn(lessons, int(settings["batch"]), generator, taken)
    looks = total if settings["schedule"] == STABLE else max(total // 4, 1)
    for step in range(taken + 1, total + 1):
        pause()
        lesson = next(source)
        norms = learning_norms(model, settings["norms"] == "learned" and batch_size(lesson.inputs) > 1)
        with optimizing.dropout(model, float(settings["dropout"]), seed * SEEDS + step), norms:
            objective = curriculum.objective(model, lesson, narrow)
        optimizer.zero_grad()
        if objective.requires_grad:
            objective.backward()
        nn.utils.clip_grad_norm_(trainable, CLIP)
        optimizer.step()
        schedule.step()
        draft.constrain(model)
        course.passed(step, trunk, settings)
        if step == total or step % looks == 0:
            found = curriculum.judge(model, held, pause)
            if found < best:
                best, best_step = found, step
                best_model = copy.deepcopy(model).to(memory_format=torch.contiguous_format)
    return best_model, best, best_step


def laid_out(model: nn.Module, lessons: Sequence[Lesson] | Pool) -> nn.Module:
    """The model with channels last, if it bears that, where the training is long and so worth the conversion."""
    return channels_last(model, lessons.lesson(torch.arange(min(2, lessons.size))).inputs) if isinstance(lessons, Pool) else model


@contextmanager
def learning_norms(model: nn.Module, learned: bool) -> Iterator[None]:
    """Within it, batch norms that keep statistics use and follow those of each batch, if ``learned``."""
    norms = [module for module in model.modules() if learned and isinstance(module, BATCH_NORMS) and module.track_running_stats]
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()
