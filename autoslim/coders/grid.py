"""Grid: whole numbers times a step, one step for each group of consecutive values of a row."""

import numpy as np

from autoslim.coders._bytes import bytes_of, from_bytes
from autoslim.streams import Parts, Stream, width_of

#: lengths of groups that are tried besides whole rows, the greatest whole number, rows that are looked at first, and by how many units in
#: the last place a step may differ from the largest value of its group divided by a whole number
LENGTHS, MOST, FIRST, NEAR = (8, 16, 32, 64, 128, 256), 127, 4, (0, 1, -1, 2, -2)


class Member:
    """float32, s groups of a length that is the same everywhere (the last of a row may be shorter) and n values padded to it: 4 s +
    ceil(n * bits / 8) bytes, the bits being those of the range of the whole numbers."""

    def split(self, values: np.ndarray) -> Parts | None:
        """A step per group of weights in a row and an integer per weight, the longest groups that hold; None for what lies on no such
        grid."""
        if values.dtype != np.float32 or values.shape[1] < 8 or not np.isfinite(values).all() or np.signbit(values[values == 0]).any():
            return None
        if not all(likely(row[: LENGTHS[0]]) for row in values[:FIRST]):
            return None
        for length in sorted({values.shape[1], *(one for one in LENGTHS if one < values.shape[1])}, reverse=True):
            if steps_of(groups(values[:FIRST], length)) is None:
                continue
            table = groups(values, length)
            steps = steps_of(table)
            if steps is not None:
                return parts_of(table, steps, length)
        return None

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """The tensor (outputs, inputs) of ``shape``: integers times steps in float32, the same bits."""
        length, low = facts
        whole = (streams[4].astype(np.int64) + low).astype(np.float32).reshape(-1, length)
        made = whole * from_bytes(streams[:4], np.dtype("<f4"))[:, None] + np.float32(0)  # no negative zeros
        return np.ascontiguousarray(made.reshape(shape[0], -1)[:, : shape[1]]).astype(dtype)


def parts_of(table: np.ndarray, steps: np.ndarray, length: int) -> Parts:
    """The streams of a table of groups with their steps."""
    whole = np.rint(table / steps[:, None]).astype(np.int64)
    low = int(whole.min())
    return Parts((length, low), (*bytes_of(steps), Stream((whole - low).reshape(-1).astype(np.uint32), width_of(int(whole.max()) - low))))


def groups(values: np.ndarray, length: int) -> np.ndarray:
    """(groups, length), rows padded with zeros."""
    padded = np.pad(values, [(0, 0), (0, -values.shape[1] % length)])
    return padded.reshape(-1, length)


def likely(values: np.ndarray) -> bool:
    """Whether a few values have a common step; all counts and neighbours at once, as nearly every tensor is turned down here."""
    top = np.abs(values).max()
    if top == 0:
        return True
    counts = np.arange(1, MOST + 1, dtype=np.float32)
    tried = np.concatenate([moved(top / counts, units) for units in NEAR])[:, None]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return bool((np.rint(values / tried) * tried == values).all(1).any())


def steps_of(table: np.ndarray) -> np.ndarray | None:
    """(groups,) float32 steps of which every value is a whole multiple, bit for bit, the coarsest there are; None where a group has none."""
    steps, open_ = np.ones(len(table), np.float32), np.flatnonzero(table.any(1))
    top = np.abs(table).max(1)
    for count in range(1, MOST + 1):
        for units in NEAR:
            if not len(open_):
                return steps
            tried = moved(top[open_] / np.float32(count), units)
            part = table[open_]
            with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
                fits = (np.rint(part / tried[:, None]) * tried[:, None] == part).all(1) & np.isfinite(tried) & (tried > 0)
            steps[open_[fits]] = tried[fits]
            open_ = open_[~fits]
    return steps if not len(open_) else None


def moved(values: np.ndarray, units: int) -> np.ndarray:
    """Positive floats, so many representable numbers further."""
    return (values.astype(np.float32).view(np.int32) + units).view(np.float32)
