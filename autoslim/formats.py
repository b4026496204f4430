"""Number formats of a layer's weights: how wide they are stored and how wide they are computed with, as two knobs.

A format is written 32, 16, 8, "w8", "w4" or "w4a8"; w is the width in the file, a the width of the activations that the
kernel reads (32 where it is not named). A mapping adds how the integers are found: ``{"format": 8, "ranges": "percentile"}``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: {name: (bits stored per weight, bits of activations)}; 32 is the network as it came
NAMES: dict[Any, tuple[int, int]] = {32: (32, 32), 16: (16, 32), "w8": (8, 32), 8: (8, 8), "w4": (4, 32), "w4a8": (4, 8)}
#: {knob: allowed values, the default first}
KNOBS: dict[str, tuple[Any, ...]] = {
    "ranges": ("measured", "minmax", "percentile", "mse", "entropy"),
    "rounding": ("auto", "nearest", "gptq", "adaround"),
    "equalise": ("auto", "always", "never"),
}
FLOAT = 32


@dataclass(frozen=True)
class Format:
    """``stored``: bits per weight in the file. ``activations``: bits that the kernel computes with, 32 for float.

    ``ranges``: how the range of integer activations is found. ``rounding``: how weights become integers. ``equalise``: whether
    scales move between a layer's inputs and its weights.
    """

    name: Any
    stored: int
    activations: int
    ranges: str = "measured"
    rounding: str = "auto"
    equalise: str = "auto"

    @property
    def integer(self) -> bool:
        """Whether the layer computes in integers."""
        return self.activations < FLOAT

    @property
    def value(self) -> Any:
        """The shortest plain value that :func:`parse` reads as this format."""
        told = {knob: getattr(self, knob) for knob, allowed in KNOBS.items() if getattr(self, knob) != allowed[0]}
        return {"format": self.name, **told} if told else self.name


def parse(value: Any) -> Format:
    """The format that a plain value names. Raises ValueError saying what is allowed."""
    told = dict(value) if isinstance(value, Mapping) else {"format": value}
    name = told.pop("format", None)
    if isinstance(name, bool) or not isinstance(name, int | str) or name not in NAMES:
        raise ValueError(f"got {value!r}, allowed: {allowed()}")
    for knob, choice in told.items():
        if knob not in KNOBS or choice not in KNOBS[knob]:
            known = "; ".join(f"{key}: " + ", ".join(choices) for key, choices in KNOBS.items())
            raise ValueError(f"got {knob}={choice!r}, allowed: {known}")
    return Format(name, *NAMES[name], **told)


def allowed() -> str:
    """The names as a user writes them."""
    return ", ".join(map(str, NAMES))


def is_integer(value: Any) -> bool:
    """Whether a value of ``Draft.bits`` means integer kernels."""
    return parse(value).integer


def stored_bits(value: Any) -> int:
    """Bits per weight that a value of ``Draft.bits`` leaves in the file, scales not counted."""
    return parse(value).stored
