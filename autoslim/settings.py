"""The knobs of recovery: names, defaults, allowed values. Checked when a space is read, long before they are used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.errors import UserError

#: resolve: solve layers anew from the original's outputs; bn: re-estimate batch-norm statistics; ln: match mean and variance of layer norms;
#: bias: correct biases; distill_steps, lr: short distillation (eased: at a lower rate where
#: little is left to win), towards soft labels at a temperature (their weight), the task's own loss
#: (labels), the original's features (hints) and attention maps (attention); outputs: what outputs are, where their shape does not tell;
#: rewind: a file of earlier weights to begin it from, or "initial"; optimizer, schedule (of the rate), batch (samples of a batch that a step takes, 0 for
#: all), weight_decay, dropout (on what linear layers read): how it learns; samples (of the train split, 0 for those of the other steps),
#: views (of images, where the samples do not suffice), norms (batch norms' statistics): what it learns from
DEFAULTS: dict[str, Any] = {
    "resolve": True,
    "bn": True,
    "ln": True,
    "bias": True,
    "rewind": "",
    "distill_steps": 0,
    "lr": 1e-3,
    "eased": True,
    "soft": 1.0,
    "temperature": 1.0,
    "labels": 0.0,
    "hints": 0.0,
    "attention": 0.0,
    "outputs": "auto",
    "optimizer": "adam",
    "schedule": "cosine",
    "batch": 0,
    "weight_decay": 0.0,
    "dropout": 0.0,
    "samples": 0,
    "views": "none",
    "norms": "fixed",
}
#: a gap (nats of KL divergence, or relative squared error) below which no further of the quick steps of recovery is made, and one below which
#: nothing is distilled either
ENOUGH, LOSSLESS = 0.005, 0.0005
#: the schedule that longer and shorter distillations have in common up to the fall, and one over the share of the steps that this takes
STABLE, FALL = "stable", 5
CHOICES = {
    "optimizer": ("adam", "sgd", "rmsprop"),
    "schedule": ("cosine", "linear", "constant", STABLE),
    "views": ("none", "shift", "mirror"),
    "norms": ("fixed", "learned"),
    "outputs": ("auto", "scores", "values"),
}
#: endings of a file of weights
WEIGHTS = (".pt", ".pth", ".safetensors")
#: the value of rewind that means what initial() of the task gives
INITIAL = "initial"


def check(settings: Mapping[str, Any], source: str = "recovery") -> dict[str, Any]:
    """The settings with defaults filled in. Raises UserError for an unknown key or a value out of range."""
    for name, value in settings.items():
        if name not in DEFAULTS:
            raise UserError(f"{source}: unknown key {name!r}, allowed: {', '.join(DEFAULTS)}")
        if not valid(name, value):
            raise UserError(f"{source}: {name} is {value!r}, allowed: {allowed(name)}")
    return DEFAULTS | dict(settings)


def fork(steps: int) -> int:
    """Steps of a STABLE schedule before its fall, which are those of every longer one too."""
    return steps - max(1, steps // FALL)


def valid(name: str, value: Any) -> bool:
    """Whether a value is allowed for a knob."""
    if name in CHOICES:
        return value in CHOICES[name]
    if name == "rewind":
        return isinstance(value, str) and (value in ("", INITIAL) or value.endswith(WEIGHTS) and Path(value).is_file())
    if isinstance(DEFAULTS[name], bool):
        return isinstance(value, bool)
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return number and (name != "dropout" or value < 1) and (name != "temperature" or value > 0)


def allowed(name: str) -> str:
    """What a knob takes, in words."""
    if name in CHOICES:
        return ", ".join(CHOICES[name])
    if name == "rewind":
        return f"an existing file of weights ({', '.join(WEIGHTS)}), {INITIAL} for what initial() of the task gives, or empty for none"
    if isinstance(DEFAULTS[name], bool):
        return "true or false"
    return {"dropout": "a number from 0 up to below 1", "temperature": "a number above 0"}.get(name, "a number from 0")
