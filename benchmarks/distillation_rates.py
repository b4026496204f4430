"""What share of the gap to the original 100 steps of distillation leave, by their rate: why ``eased`` is on by default.

Run: ``python benchmarks/distillation_rates.py [--steps 100] [--seeds 0 1 2]`` (digits and spoken digits; up to an hour on two cores, a third of that with one seed). Convolutions of both networks are cut to
ever fewer channels and solved anew; each cut is distilled at several rates as they stand, and at LR eased. Prints the gap before, on held-out train inputs
(by which the distillation keeps its best moment) and on validation inputs (which nothing saw), and the shares that are left on validation inputs, means over
the seeds of the order of samples. 1.00 is a distillation that was undone.
"""

import argparse
import copy
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from autoslim import distilling, engine, settings, task
from autoslim.engine import Draft
from autoslim.inputs import call
from autoslim.lessons import Lesson, judge
from autoslim.materials import Materials
from autoslim.recipe import Recipe, Step
from autoslim.recovery import recover

RATES = (5e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3)
#: the rate of the shipped spaces
LR = 2e-3
#: (task, units that are cut, channels that are left)
CUTS = (
    ("autoslim.tasks.digits.task", ("stages.1.0.conv2", "stages.1.1.conv1", "stages.2.0.conv1", "stages.2.1.conv1"), (64, 48, 32, 16, 8)),
    ("autoslim.tasks.spoken", ("after", "conv.0", "conv.3", "conv.6"), (96, 64, 32)),
)


def quiet() -> None:
    """Nobody waits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    told = parser.parse_args()
    print(f"{'task':<8}{'channels':>9}{'gap':>9}{'on val':>9}  " + "".join(f"{rate:>8g}" for rate in RATES) + f"{'eased':>8}")
    for name, units, widths in CUTS:
        for width, held, val, shares in shares_of(name, units, widths, told.steps, told.seeds):
            print(f"{name.split('.')[2]:<8}{width:>9}{held:>9.5f}{val:>9.5f}  " + "".join(f"{share:>8.2f}" for share in shares), flush=True)


def shares_of(
    name: str, units: Sequence[str], widths: Sequence[int], steps: int, seeds: Sequence[int]
) -> Iterator[tuple[int, float, float, list[float]]]:
    """(channels, gap held out, gap on val, shares of the latter that are left at each rate and eased)."""
    it = task.load(name, {}, None)
    model = it.model()
    materials = Materials(it, model, quiet)
    lessons, held, calibration = materials.lessons()
    with torch.no_grad():
        unseen = [Lesson(inputs, call(model, inputs), None) for inputs, _ in it.batches("val")]
    for width in widths:
        recipe = Recipe.of([Step("channels", unit, width) for unit in units])
        draft = engine.compress(model, recipe, calibration, moments=materials.moments(calibration))
        recover(draft, model, lessons, held, {}, known=materials.reference)
        before, val = (judge(draft.model, some, quiet, "auto") for some in (held, unseen))

        def left(knobs: dict[str, Any], draft: Draft = draft, before: float = before, val: float = val) -> float:
            return statistics.mean(distilled(draft, model, lessons, held, unseen, knobs, before, seed) for seed in seeds) / val

        plain = [left({"distill_steps": steps, "lr": rate, "eased": False}) for rate in RATES]
        yield width, before, val, [*plain, left({"distill_steps": steps, "lr": LR})]


def distilled(
    draft: Draft,
    model: torch.nn.Module,
    lessons: list[Lesson],
    held: list[Lesson],
    unseen: list[Lesson],
    knobs: dict[str, Any],
    before: float,
    seed: int,
) -> float:
    """The gap on ``unseen`` of a copy of the draft after its distillation."""
    pupil = copy.copy(draft)
    pupil.model, pupil.notes = copy.deepcopy(draft.model), []
    distilling.distilled(pupil, model, lessons, held, settings.check(knobs), before, None, quiet, seed)
    return judge(pupil.model, unseen, quiet, "auto")


if __name__ == "__main__":
    main()
