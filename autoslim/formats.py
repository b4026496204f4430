"""Number formats of a layer's weights: how wide they are stored and how wide they are computed with, as two knobs.

A format is written 32, 16, "bf16", "w16", 8, "w8", "w4", "w4a8" or "w16a16"; w is the width of integers in the file, a the width of the
activations that the kernel reads (32 where it is not named). A mapping adds how the integers are found: ``{"format": 8, "ranges": "percentile"}``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

#: {name: (bits stored per weight, bits of activations)}; 32 is the network as it came
NAMES: dict[Any, tuple[int, int]] = {
    32: (32, 32),
    16: (16, 32),
    "bf16": (16, 32),
    "w16": (16, 32),
    "w16a16": (16, 16),
    "w8": (8, 32),
    8: (8, 8),
    "w4": (4, 32),
    "w4a8": (4, 8),
}
#: those whose weights are stored as floats
FLOATING = (32, 16, "bf16")
#: activations whose range is found anew at every run, and with what: bytes of weights, and ONNX's DynamicQuantizeLinear, which is affine
DYNAMIC = "dynamic"
WITH_DYNAMIC: dict[str, tuple[Any, ...]] = {"format": (8,), "zero": ("affine",), "equalise": ("auto", "never")}
#: {knob: allowed values, the default first}
KNOBS: dict[str, tuple[Any, ...]] = {
    "ranges": ("measured", "minmax", "percentile", "mse", "entropy", DYNAMIC),
    "zero": ("affine", "symmetric"),
    "per": ("channel", "tensor"),
    "rounding": ("auto", "nearest", "gptq", "adaround"),
    "equalise": ("auto", "always", "never"),
    "bias": ("corrected", "plain"),
    "fallback": ("auto", "never"),
}
FLOAT = 32
#: inputs that share one step of weights of four bits; rows per sample up to which MatMulNBits was measured faster
#: than float
BLOCK, FEW_ROWS = 32, 4
#: the fewest inputs that share a step where blocks of 32 do not divide a layer's inputs
LEAST_BLOCK = 16
#: inputs per output from which w4 stores four bits: with nine weights a filter (depthwise convolutions) there is nothing for GPTQ to make up for
#: the error with, and they are a hundredth of a network
FOUR_BITS_FROM = 32
#: columns of a table of four bits that share one step, and entries from which w4 stores four bits of a table: of a few, each is read by many
#: samples, so that its error does not average out, and they are a hundredth of a network
TABLE_BLOCK, FOUR_BIT_ENTRIES = 16, 256
#: hidden units from which a GRU of integer products was measured faster than float
GRU_FROM = 512


@dataclass(frozen=True)
class Format:
    """``stored``: bits per weight in the file. ``activations``: bits that the kernel reads, 32 for float.

    ``ranges``: how the range of integer activations is found; "dynamic": anew at every run, of products of matrices alone, without an
    equaliser (static convolutions beside them). ``zero``: whether 0 may lie anywhere in it or in its middle; behind a ReLU it is
    the lowest value either way. ``per``: whether a weight has a step for each output (below eight bits for each block of inputs) or one. ``rounding``: how weights become integers. ``equalise``: whether
    scales move between a layer's inputs and its weights. ``bias``: whether it takes up the mean error of the outputs. ``fallback``:
    whether a layer that loses much as integers computes in float, its weights stored as narrow as told, and whether one with few weights per
    output has eight bits in the place of four.
    """

    name: Any
    stored: int
    activations: int
    ranges: str = "measured"
    zero: str = "affine"
    per: str = "channel"
    rounding: str = "auto"
    equalise: str = "auto"
    bias: str = "corrected"
    fallback: str = "auto"

    @property
    def integer(self) -> bool:
        """Whether the layer computes in integers, for which there are kernels of eight bits."""
        return self.activations <= 8

    @property
    def dynamic(self) -> bool:
        """Whether the range of activations is found anew at every run, where there are kernels for it: in products of matrices."""
        return self.integer and self.ranges == DYNAMIC

    @property
    def whole(self) -> bool:
        """Whether weights are stored as integers."""
        return self.name not in FLOATING

    @property
    def fell(self) -> bool:
        """Whether it was meant as integers and computes in float: its weights stay as they would have been stored for the integers."""
        return NAMES[self.name][1] <= 8 and not self.integer

    def in_float(self) -> "Format":
        """The same stored width under float kernels."""
        return replace(self, activations=FLOAT)

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
    for knob, choices in WITH_DYNAMIC.items() if told.get("ranges") == DYNAMIC else ():
        choice = (told | {"format": name}).get(knob, choices[0])
        if choice not in choices:
            raise ValueError(f"got {knob}={choice!r} with ranges={DYNAMIC!r}, allowed with it: {', '.join(map(str, choices))}")
    return Format(name, *NAMES[name], **told)


def allowed() -> str:
    """The names as a user writes them."""
    return ", ".join(map(str, NAMES))


def is_integer(value: Any) -> bool:
    """Whether a value of ``Draft.bits`` means integer kernels."""
    return parse(value).integer


def label(value: Any) -> str:
    """A format as a word that is the same for all ways to write it; what tables of times are kept by."""
    short = parse(value).value
    return " ".join(f"{key}={part}" for key, part in short.items()) if isinstance(short, Mapping) else str(short)


def stored_bits(value: Any) -> int:
    """Bits per weight that a value of ``Draft.bits`` leaves in the file, scales not counted."""
    return parse(value).stored


def block_of(inputs: int) -> int:
    """How many inputs share one step: the greatest divisor from 32 down to 16, else all."""
    return next((size for size in range(BLOCK, LEAST_BLOCK - 1, -1) if inputs % size == 0), inputs)


def kept(form: Format, inputs: int) -> Format:
    """The format that a weight of so many inputs per output is stored in: of w4, eight bits below ``FOUR_BITS_FROM`` unless ``fallback`` is never."""
    few = form.name == "w4" and inputs < FOUR_BITS_FROM and form.fallback != "never"
    return replace(form, stored=8) if few else form


def kept_table(form: Format, entries: int) -> Format:
    """The format that a table of so many entries is stored in: of w4, eight bits below ``FOUR_BIT_ENTRIES`` unless ``fallback`` is never."""
    few = form.name == "w4" and entries < FOUR_BIT_ENTRIES and form.fallback != "never"
    return replace(form, stored=8) if few else form


def weight_bytes(form: Format, outputs: int, inputs: int, few: bool = False) -> int:
    """Bytes of a weight (outputs, inputs) and its steps in a file. ``few``: the layer reads at most FEW_ROWS rows per sample."""
    form, count = kept(form, inputs), outputs * inputs
    if not form.whole:
        return count * form.stored // 8
    steps = outputs
    if form.stored == 4 and (few and inputs % BLOCK == 0 or not form.integer):
        steps *= inputs // block_of(inputs)
    return -(-count * form.stored // 8) + steps * (
        4 if form.integer or form.stored == 16 else 2
    )  # steps of float kernels are 16-bit floats


def table_bytes(form: Format, entries: int, width: int) -> int:
    """Bytes of an embedding's table and its steps in a file: per column, of four bits 16 bits per row and block of columns."""
    form = kept_table(form, entries)
    if not form.whole:
        return entries * width * form.stored // 8
    if form.stored == 16:
        return entries * width * 2 + 4 * width
    if form.stored == 4 and width % TABLE_BLOCK == 0:
        return entries * width // 2 + 2 * entries * (width // TABLE_BLOCK)
    return entries * width + 4 * width
