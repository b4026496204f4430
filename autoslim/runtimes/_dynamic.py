"""Which axes of a file are free: the task's DYNAMIC_SHAPES, else the batch axis, else none."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from autoslim import packing
from autoslim.inputs import Inputs, split

FIXED = "the file takes a fixed batch: the exporter could not free the batch axis"
REFUSED = "DYNAMIC_SHAPES was not followed: the exporter refused it"


def attempts(example: Inputs, told: Any) -> Iterator[tuple[Inputs, Any, bool]]:
    """(inputs to trace with, dynamic shapes as torch.export takes them, whether they are the task's), the best first."""
    pair = packing.twice(example)
    if told is not None:
        yield example, spec(told, example), True
        yield pair, spec(told, pair), True
    yield pair, spec(packing.batch_axes(pair, torch.export.Dim.DYNAMIC), pair), False
    yield example, None, False


def spec(shapes: Any, inputs: Inputs) -> Any:
    """By argument's name where that is how inputs or shapes are given, else one entry for each positional argument."""
    by_name = isinstance(shapes, Mapping) and all(isinstance(key, str) for key in shapes)
    if by_name or split(inputs)[1]:
        return shapes
    return tuple(shapes) if isinstance(shapes, tuple | list) else (shapes,)


def notes(fixed: str, followed: bool) -> list[str]:
    """What a user should know about the axes of a file that was written."""
    return [FIXED] * bool(fixed) + [REFUSED] * (not followed)
