"""The knobs of recovery: names, defaults, allowed values. Checked when a space is read, long before they are used."""

from collections.abc import Mapping
from typing import Any

from autoslim.errors import UserError

#: resolve: solve layers anew from the original's outputs; bn: re-estimate batch-norm statistics; bias: correct biases;
#: distill_steps, lr: short distillation; labels: weight of the task's own loss beside the gap to the original
DEFAULTS: dict[str, Any] = {"resolve": True, "bn": True, "bias": True, "distill_steps": 0, "lr": 1e-3, "labels": 0.0}


def check(settings: Mapping[str, Any], source: str = "recovery") -> dict[str, Any]:
    """The settings with defaults filled in. Raises UserError for an unknown key or a value out of range."""
    for name, value in settings.items():
        if name not in DEFAULTS:
            raise UserError(f"{source}: unknown key {name!r}, allowed: {', '.join(DEFAULTS)}")
        flag = isinstance(DEFAULTS[name], bool)
        good = (
            isinstance(value, bool)
            if flag
            else isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
        )
        if not good:
            raise UserError(
                f"{source}: {name} is {value!r}, allowed: {'true or false' if isinstance(DEFAULTS[name], bool) else 'a number from 0'}"
            )
    return DEFAULTS | dict(settings)
