"""Scaled: one table for all outputs, times a factor for each, as a batch norm folded into coded weights leaves it.

Folding multiplies each output's weights by a factor and rounds, so that no two outputs share a value any more. Each value is stored as
table times factor, corrected by a few units in the last place, which brings it back bit for bit.
"""

import numpy as np

from autoslim.coders._bytes import bytes_of, from_bytes
from autoslim.streams import Parts, Stream, width_of

#: relative distance within which a value is taken for table times factor, and the most values of a table
NEAR, MOST = 1e-6, 64


class Member:
    """float32 with r rows and k values: 4 k + 4 r + ceil(r k bits / 8) + ceil(n bits(k) / 8) bytes."""

    def split(self, values: np.ndarray) -> Parts | None:
        """One table for all rows (outputs), a factor for each row, what single precision leaves of their products, and an index per
        weight; None for
        rows that are no multiples of one another."""
        if values.dtype != np.float32 or values.shape[0] < 2 or values.shape[1] < 4 or not np.isfinite(values).all():
            return None
        if np.signbit(values[values == 0]).any():
            return None
        limit = min(MOST, values.shape[1])
        if any(len(np.unique(row)) > limit for row in values[:4]):
            return None
        rows = [np.unique(row) for row in values]
        if max(map(len, rows)) > limit:
            return None
        found = fit(rows)
        if found is None:
            return None
        base, factors = found
        return self._parts(values, base, factors)

    def _parts(self, values: np.ndarray, base: np.ndarray, factors: np.ndarray) -> Parts | None:
        made = product(base, factors)  # (rows, k)
        nearest = np.stack([np.abs(row[:, None].astype(np.float64) - table).argmin(1) for row, table in zip(values, made, strict=True)])
        steps = ulps(values) - ulps(np.take_along_axis(made, nearest, 1))
        table = np.zeros(made.shape, np.int64)
        np.put_along_axis(table, nearest, steps, 1)
        if not np.array_equal(np.take_along_axis(table, nearest, 1), steps):
            return None  # two values of a row fell on one entry
        low, width = int(table.min()), width_of(int(table.max() - table.min()))
        if width > 8:
            return None
        correction = Stream((table - low).reshape(-1).astype(np.uint32), width)
        index = Stream(nearest.reshape(-1).astype(np.uint32), width_of(len(base) - 1))
        return Parts((len(base), low), (*bytes_of(base), *bytes_of(factors), correction, index))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """The tensor (outputs, inputs) of ``shape``, bit for bit."""
        base, factors = from_bytes(streams[:4], np.dtype("<f4")), from_bytes(streams[4:8], np.dtype("<f4"))
        tables = ulps(product(base, factors)) + streams[8].astype(np.int64).reshape(shape[0], facts[0]) + facts[1]
        return np.take_along_axis(from_ulps(tables), streams[9].reshape(shape).astype(np.int64), 1).astype(dtype)


def product(base: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(rows, k) float32: each entry of the table times each row's factor, rounded once."""
    return (base.astype(np.float64)[None] * factors.astype(np.float64)[:, None]).astype(np.float32)


def ulps(values: np.ndarray) -> np.ndarray:
    """Floats as integers that count representable numbers from zero, int64."""
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def from_ulps(counts: np.ndarray) -> np.ndarray:
    """The inverse of :func:`ulps` for numbers other than -0.0."""
    bits = np.where(counts < 0, np.abs(counts) | 0x80000000, counts)
    return bits.astype(np.uint32).view(np.float32)


def fit(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """(table, factors) such that every row's values are near table times factor; None where there is none.

    The row with most values begins the table; a row that holds values which the table lacks adds them.
    """
    first = max(range(len(rows)), key=lambda index: len(rows[index]))
    base = rows[first].astype(np.float64)
    factors = np.ones(len(rows))
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):
        row = rows[index].astype(np.float64)
        live = row[row != 0]
        if not len(live):
            factors[index] = 0.0
            continue
        scale, missing = match(live, base[base != 0])
        if len(missing) > len(live) // 2:
            return None  # nothing in common
        factors[index] = scale
        base = np.unique(np.concatenate([base, missing]))
        if len(base) > MOST:
            return None
    if 0.0 not in base and any((row == 0).any() for row in rows):
        base = np.unique(np.append(base, 0.0))
    return (base.astype(np.float32), factors.astype(np.float32)) if len(base) <= MOST else None


def match(row: np.ndarray, base: np.ndarray) -> tuple[float, np.ndarray]:
    """(factor, values of the row, divided by it, that the table lacks): the factor that brings most values onto the table."""
    anchor = row[np.abs(row).argmax()]
    scales = anchor / base  # (k,) whichever entry the largest value may be
    wanted = row[None, :] / scales[:, None]  # (k, values)
    places = np.searchsorted(base, wanted).clip(1, len(base) - 1) if len(base) > 1 else np.zeros(wanted.shape, int)
    lower, upper = base[np.maximum(places - 1, 0)], base[places]
    near = np.minimum(np.abs(lower / wanted - 1), np.abs(upper / wanted - 1)) < NEAR
    best = int(near.sum(1).argmax())
    return float(scales[best]), wanted[best][~near[best]]
