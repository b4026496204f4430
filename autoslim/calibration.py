"""What tensors of an ONNX graph hold on calibration inputs: their ranges, some of their values, and the rows that layers read."""

import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import torch

from autoslim.ranges import VALUES

#: rows that are kept of what one layer reads, over all batches; of one whose rounding looks at them; and the most numbers that they may hold
ROWS, MANY, MOST = 1024, 4096, 1 << 22
Feed = Mapping[str, np.ndarray]
Geometry = tuple


@dataclass
class Seen:
    """One tensor: its extremes, up to ``VALUES`` of its values, and by geometry of the reader the rows that it reads,
    (n, groups, inputs). ``samples``: by geometry, too, which sample each row comes from, (n,). ``positions``: rows per sample of a linear
    reader."""

    low: float = np.inf
    high: float = -np.inf
    values: list[np.ndarray] = field(default_factory=list)
    rows: dict[Geometry, list[np.ndarray]] = field(default_factory=dict)
    samples: dict[Geometry, list[np.ndarray]] = field(default_factory=dict)
    positions: int = 1

    def sample(self) -> np.ndarray:
        return np.concatenate(self.values) if self.values else np.zeros(1, np.float32)

    def rows_of(self, geometry: Geometry) -> np.ndarray:
        return np.concatenate(self.rows[geometry])

    def samples_of(self, geometry: Geometry) -> np.ndarray:
        return np.concatenate(self.samples[geometry])


def observe(
    model: onnx.ModelProto, wanted: Mapping[str, Iterable[Geometry]], feeds: Sequence[Feed], many: Collection[str] = ()
) -> dict[str, Seen]:
    """{tensor: what was seen}. ``wanted``: {tensor: geometries of the layers that read it}; ``feeds`` are small batches, run one by
    one, and only samples of what they give stay in memory: of tensors in ``many`` up to MANY rows, of others up to ROWS. Tensors that are no
    floats, or hold nothing, are left out."""
    session = opened(model, wanted)
    found: dict[str, Seen] = {}
    names = [item.name for item in session.get_outputs() if item.name in wanted and item.type == "tensor(float)"]
    for number, feed in enumerate(feeds):
        for name, value in zip(names, session.run(names, dict(feed)), strict=True):
            if value.size:
                most = MANY if name in many else ROWS
                seen = found.setdefault(name, Seen())
                take(seen, name, value, wanted[name], number, len(feeds), most, batch_of(feed), mask_of(feed))
    return found


def opened(model: onnx.ModelProto, wanted: Iterable[str]) -> onnxruntime.InferenceSession:
    """A session of ``model`` that also gives the wanted tensors."""
    copied = onnx.ModelProto.FromString(model.SerializeToString())
    have = {item.name for item in copied.graph.output}
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted if name not in have)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(copied.SerializeToString(), options, providers=["CPUExecutionProvider"])


def batch_of(feed: Feed) -> int:
    """Samples of one batch: the length of its first input, 0 where that has no axes."""
    first = next(iter(feed.values()), np.zeros(()))
    return len(first) if first.ndim else 0


def mask_of(feed: Feed) -> np.ndarray | None:
    """(samples, positions) which positions of a padded text count, by the input that tells the network, None where there is none."""
    return next((value != 0 for name, value in feed.items() if name.endswith("attention_mask") and value.ndim == 2), None)


def take(
    seen: Seen,
    name: str,
    value: np.ndarray,
    geometries: Iterable[Geometry],
    number: int,
    feeds: int,
    most: int = ROWS,
    batch: int = 0,
    mask: np.ndarray | None = None,
) -> None:
    """Add one batch of a tensor, of all batches at most ``most`` rows; which values and rows are kept depends on the name and the number of
    the batch alone. ``batch``: its samples, where known; where no axis is as long, each row counts as a sample of its own.
    ``mask`` (samples, positions): the rows of other positions are left out of tensors that have such axes, but not the values, which are
    computed as well."""
    chance = np.random.default_rng([zlib.crc32(name.encode()), number])
    seen.low, seen.high = min(seen.low, float(value.min())), max(seen.high, float(value.max()))
    seen.values.append(value.reshape(-1)[picks(chance, value.size, -(-VALUES // feeds))])
    for geometry in geometries:
        if not geometry:
            rows = value.reshape(-1, value.shape[-1])
            seen.positions = max(1, len(rows) // len(value))
            real = np.flatnonzero(mask) if mask is not None and value.shape[:-1] == mask.shape else np.arange(len(rows))
            some = real[picks(chance, len(real), most_rows(value.shape[-1], feeds, most))]
            seen.rows.setdefault(geometry, []).append(rows[some][:, None, :])
            sample = sample_of(value.shape[:-1], some, batch)
        else:
            found, sample = patches(value, geometry, chance, feeds, most)
            seen.rows.setdefault(geometry, []).append(found)
        seen.samples.setdefault(geometry, []).append(sample + (number << 32))  # samples of different batches are different


def sample_of(shape: Sequence[int], places: np.ndarray, batch: int) -> np.ndarray:
    """(n,) which sample the rows at ``places`` belong to, counted over axes of ``shape``: the place on the first axis as long as the batch."""
    axis = next((axis for axis, length in enumerate(shape) if length == batch), None)
    return np.arange(len(places)) if axis is None else np.unravel_index(places, tuple(shape))[axis]


def most_rows(width: int, feeds: int, most: int) -> int:
    return max(1, min(most, MOST // max(width, 1)) // feeds)


def picks(chance: np.random.Generator, size: int, most: int) -> np.ndarray:
    """At most ``most`` indices, all of them where there are no more, in order."""
    return np.arange(size) if size <= most else np.sort(chance.choice(size, most, replace=False))


def patches(
    value: np.ndarray, geometry: Geometry, chance: np.random.Generator, feeds: int, most: int = ROWS
) -> tuple[np.ndarray, np.ndarray]:
    """((n, groups, channels per group * kernel): what a convolution reads at some positions of ``value`` (batch, channels, ...), (n,) of
    which sample)."""
    groups, kernel, strides, pads, dilations = geometry
    axes = len(kernel)
    strides, dilations, pads = strides or (1,) * axes, dilations or (1,) * axes, pads or (0,) * (2 * axes)
    padded = np.pad(value, [(0, 0), (0, 0), *((pads[i], pads[i + axes]) for i in range(axes))])
    reach = tuple((size - 1) * apart + 1 for size, apart in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(2, 2 + axes)))
    steps = tuple(slice(None, None, step) for step in strides)
    windows = windows[(slice(None), slice(None), *steps, *(slice(None, None, apart) for apart in dilations))]
    places = (windows.shape[0], *windows.shape[2 : 2 + axes])
    width = value.shape[1] * int(np.prod(kernel))
    some = picks(chance, int(np.prod(places)), most_rows(width, feeds, most))
    batch, *spots = np.unravel_index(some, places)
    rows = np.moveaxis(windows, 1, 1 + axes)[(batch, *spots)]  # (n, channels, *kernel)
    return rows.reshape(len(rows), groups, -1).astype(np.float32), batch
