"""What both forms of sparse storage share: the values that are not zero."""

import numpy as np

from autoslim.coders._bytes import bytes_of, from_bytes, pattern
from autoslim.streams import Stream, width_of

#: share of zeros from which a sparse form is tried
LEAST = 0.05


def worth_it(live: np.ndarray) -> bool:
    return 0 < int(live.sum()) < (1 - LEAST) * live.size


def split(values: np.ndarray) -> tuple[tuple[int, ...], tuple[Stream, ...]]:
    """(facts, streams): from a table where at most 256 values are distinct and that is smaller, else byte by byte."""
    table, index = np.unique(pattern(values), return_inverse=True)
    if len(table) <= 256 and (len(table) * values.itemsize + len(values) * width_of(len(table) - 1) / 8) < values.nbytes:
        return (len(table),), (*bytes_of(table), Stream(index.astype(np.uint32), width_of(len(table) - 1)))
    return (0,), bytes_of(values)


def join(facts: list[int], streams: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The inverse of :func:`split`."""
    return from_bytes(streams[:-1], dtype)[streams[-1]] if facts[0] else from_bytes(streams, dtype)
