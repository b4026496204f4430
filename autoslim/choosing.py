"""Choose how a layer's inputs become integers by what the choice does to the layer's outputs on calibration rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoslim import equalising
from autoslim.calibration import Seen
from autoslim.formats import Format
from autoslim.onnx_layers import Site
from autoslim.ranges import Range, candidates, rounded, span
from autoslim.rounding import nearest, scales_of, spread

#: rows that choices are judged on, and how much less error another range than everything seen must leave
JUDGED, BETTER = 256, 0.8
#: an equaliser that costs a multiplication must halve an error that matters; one that folds away need only help
WORTH, MATTERS, HELPS = 0.5, 3e-4, 0.9


@dataclass(frozen=True)
class Reader:
    """A site with its weight (groups, outputs, inputs) and the rows that it read, (n, groups, inputs)."""

    site: Site
    weight: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Choice:
    """The range of one tensor, the scale it is divided by first (None for none), and the relative error of outputs it leaves."""

    range: Range
    scale: np.ndarray | None
    error: float


def product(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, groups, outputs) of rows (n, groups, inputs) and weights (groups, outputs, inputs)."""
    return np.matmul(rows.transpose(1, 0, 2), weight.transpose(0, 2, 1)).transpose(1, 0, 2)


def byte_weight(weight: np.ndarray) -> np.ndarray:
    """A weight as signed bytes per output would give it back."""
    flat = weight.reshape(-1, weight.shape[2])
    steps = scales_of(flat, 8, flat.shape[1])
    return (nearest(flat, steps, 8) * spread(steps, flat.shape[1])).astype(np.float32).reshape(weight.shape)


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """How far outputs (n, ...) are off: the larger of the error's share of the whole energy, and the mean over rows of its share of
    the row's own (at least the median). The first sees that a few huge rows are clipped, the second that they drown the rest."""
    energy = np.square(want).reshape(len(want), -1).sum(1)
    error = np.square(got - want).reshape(len(want), -1).sum(1)
    floor = float(np.median(energy)) + 1e-12
    return max(float(error.sum() / (energy.sum() + 1e-12)), float((error / np.maximum(energy, floor)).mean()))


def choose(seen: Seen, readers: Sequence[Reader], foldable: bool, linear: bool) -> Choice:
    """The range, and where it helps the equaliser, of a tensor that these layers read."""
    form = readers[0].site.format
    rows = [judged(reader.rows) for reader in readers]
    wanted = [product(part, reader.weight) for part, reader in zip(rows, readers, strict=True)]
    trial = Trial(readers, rows, wanted, None)
    everything = trial.error(span(seen.low, seen.high, form.zero))
    scale = None
    if form.equalise != "never" and (foldable or linear):
        worth = 1.0 if form.equalise == "always" else HELPS if foldable else WORTH
        scale = equaliser(readers, rows, wanted, everything * worth) if form.equalise == "always" or everything > MATTERS else None
    if scale is None:
        return trial.best(form, seen.sample(), seen.low, seen.high)
    values = readers[0].rows / equalising.widened(scale, readers[0].rows)
    return Trial(readers, rows, wanted, scale).best(form, values.reshape(-1), float(values.min()), float(values.max()))


def everything(seen: Seen, readers: Sequence[Reader]) -> Choice:
    """Everything that was seen as the range of a tensor, no equaliser, and the error that it leaves."""
    rows = [judged(reader.rows) for reader in readers]
    wanted = [product(part, reader.weight) for part, reader in zip(rows, readers, strict=True)]
    return Choice((seen.low, seen.high), None, Trial(readers, rows, wanted, None).error((seen.low, seen.high)))


def judged(rows: np.ndarray) -> np.ndarray:
    """Rows that are spread evenly over those there are."""
    return rows if len(rows) <= JUDGED else rows[np.linspace(0, len(rows) - 1, JUDGED).astype(int)]


def equaliser(readers: Sequence[Reader], rows: Sequence[np.ndarray], wanted: Sequence[np.ndarray], limit: float) -> np.ndarray | None:
    """The scale per channel with the least error, everything seen being the range; None if none gets below ``limit``."""
    channels = channels_of(readers[0])
    inputs = equalising.per_channel(readers[0].rows, channels)
    weights = np.max([equalising.per_channel(reader.weight.transpose(1, 0, 2), channels) for reader in readers], 0)
    best, least = None, limit
    for strength in equalising.STRENGTHS:
        scale = equalising.scales(inputs, weights, strength)
        values = readers[0].rows / equalising.widened(scale, readers[0].rows)
        error = Trial(readers, rows, wanted, scale).error(span(float(values.min()), float(values.max()), readers[0].site.format.zero))
        if error < least:
            best, least = scale, error
    return best


def channels_of(reader: Reader) -> int:
    """Channels of the tensor that a reader reads."""
    kernel = int(np.prod(reader.site.geometry[1])) if reader.site.geometry else 1
    return reader.rows.shape[1] * reader.rows.shape[2] // kernel


class Trial:
    """The layers that read one tensor, its channels divided by ``scale``, with weights of signed bytes: any range can be judged."""

    def __init__(
        self, readers: Sequence[Reader], rows: Sequence[np.ndarray], wanted: Sequence[np.ndarray], scale: np.ndarray | None
    ) -> None:
        self.scale, self.wanted, self.weights, self.inputs = scale, wanted, [], []
        for reader, part in zip(readers, rows, strict=True):
            wide = np.ones(part.shape[1:], np.float32) if scale is None else equalising.widened(scale, part)
            self.weights.append(byte_weight(reader.weight * wide[:, None, :]))
            self.inputs.append(part / wide)

    def error(self, pair: Range) -> float:
        """Mean relative error of the layers' outputs."""
        parts = zip(self.inputs, self.weights, self.wanted, strict=True)
        return float(np.mean([relative(product(rounded(x, *pair), weight), want) for x, weight, want in parts]))

    def best(self, form: Format, values: np.ndarray, low: float, high: float) -> Choice:
        """Of a method's ranges the one with the least error; where all methods compete, everything seen unless another is clearly better."""
        tried, whole = candidates(form.ranges, values, low, high, form.zero), span(low, high, form.zero)
        errors = [self.error(pair) for pair in tried]
        judged_as = [error if pair == whole else error / BETTER for pair, error in zip(tried, errors, strict=True)]
        index = int(np.argmin(judged_as))
        return Choice(tried[index], self.scale, errors[index])


def choose_alone(seen: Seen, form: Format | None) -> Range:
    """The range of a tensor that no weighted layer reads: everything seen, unless another method was named."""
    method, zero = (form.ranges, form.zero) if form else ("measured", "affine")
    return candidates("minmax" if method == "measured" else method, seen.sample(), seen.low, seen.high, zero)[0]
