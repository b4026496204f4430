"""Whole files of random points, made and timed before the search, so that a forecast of times begins with what the layers' profiles do not add up to.

Their accuracy is nobody's concern, so that nothing is recovered. All are timed in one rotation with the untouched file: the ratios that a search
measures of its candidates minutes apart are of different moments of the machine.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autoslim.candidate import Point
from autoslim.contest import Contest
from autoslim.correction import FEWEST
from autoslim.errors import AutoSlimError
from autoslim.sensitivity import compressed
from autoslim.space import RECOVERY, SearchSpace

if TYPE_CHECKING:
    from autoslim.evaluator import Evaluator

#: files; seconds for making them, at most, and as a share of the whole run's; seconds of the rotation for each, and runs in it that are the fewest
MANY, SECONDS, SHARE, EACH, RUNS = 16, 12.0, 0.05, 0.2, 16
#: techniques whose choices train before there is a file
TRAINED = ("qat", "regularised", "gradual", "student")


def timed(evaluator: "Evaluator") -> list[dict[str, Any]]:
    """[{"point", "ratio": time of its file as a share of the untouched file's}]; fewer than MANY where making them takes long, none where these
    were too few to learn from, where no cost is a time, or where a device has the clock."""
    if not wanted(evaluator):
        return []
    allowed = min(SECONDS, SHARE * (evaluator.job.seconds or float("inf")))
    once = evaluator.prepared.untouched.get("latency_ms") / 1000
    made = files(evaluator, min(MANY, int(allowed / (RUNS * once))), allowed)
    try:
        return rotated(evaluator, made) if len(made) >= FEWEST else []
    finally:
        for _, path in made:
            path.unlink(missing_ok=True)


def wanted(evaluator: "Evaluator") -> bool:
    """Whether times are asked for, and taken here."""
    job = evaluator.job
    asked = {"latency_ms", "throughput"} & set(job.objectives) or "ms" in job.budget.limits
    return bool(asked) and not job.away and not hasattr(evaluator.runtime, "contest")


def files(evaluator: "Evaluator", many: int, seconds: float) -> list[tuple[Point, Path]]:
    """(point, its file), until there are so many or the time is over; the second that takes too long for FEWEST of them is the last, as the first
    has everything to load."""
    generator, begun, made = np.random.default_rng(0), time.monotonic(), []
    for number in range(2 * many if many >= FEWEST else 0):
        point = drawn(evaluator.prepared.space, generator)
        path = file_of(evaluator, point, number)
        made += [] if path is None else [(point, path)]
        passed = time.monotonic() - begun
        if len(made) == many or passed > seconds or number and passed > (number + 1) * seconds / FEWEST:
            break
    return made


def drawn(space: SearchSpace, generator: np.random.Generator) -> dict[str, Any]:
    """A point in which a share of all decisions, another for each point, stand at random choices, those on blocks half as often, since
    a removed block takes the other decisions inside with it; trained choices and recovery stay."""
    point, share = space.identity(), generator.random()
    for domain in space.domains:
        change, place = generator.random(), int(generator.integers(len(domain.choices)))
        if domain.technique not in (RECOVERY, *TRAINED) and change < share * (0.5 if domain.technique == "depth" else 1.0):
            point[domain.name] = domain.choices[place]
    return point


def file_of(evaluator: "Evaluator", point: Point, number: int) -> Path | None:
    """The file of a point without recovery; None where it cannot be made."""
    folder, suffix, calibration = evaluator.out / "tables", evaluator.runtime.suffix, evaluator.materials.lessons()[2][:1]
    base, path = folder / f"drill-base{suffix}", folder / f"drill-{number}{suffix}"
    try:
        draft = compressed(evaluator, evaluator.prepared.space.decode(point), calibration)
        evaluator.export(draft, calibration, base if draft.bits else path)
        if draft.bits:
            evaluator.runtime.finish(draft, base, calibration, path)
        return path
    except Exception:  # a stranger's network, or a choice that it cannot have: such a candidate says so when it is evaluated
        return None
    finally:
        base.unlink(missing_ok=True)


def rotated(evaluator: "Evaluator", made: list[tuple[Point, Path]]) -> list[dict[str, Any]]:
    """The points with the ratios of their files, from one rotation alone on this machine; none where it fails."""
    contest = Contest(evaluator.runtime, evaluator.job.threads, evaluator.latency_inputs)
    try:
        with evaluator.machine.alone():
            rounds = contest.tournament([path for _, path in made], evaluator.untouched_file(), EACH * len(made))
    except AutoSlimError:
        return []
    return [{"point": dict(point), "ratio": contest.settle([own]).ratio.value} for (point, _), own in zip(made, rounds, strict=True)]


__all__ = ["timed"]
