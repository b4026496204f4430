"""Rows: a table of distinct values for each output, and an index for each weight."""

import numpy as np

from autoslim.coders._bytes import bytes_of, from_bytes, pattern
from autoslim.streams import Parts, Stream, width_of


class Member:
    """At most k <= 64 distinct values in each of r rows; r * k * itemsize + ceil(n * bits(k) / 8) bytes."""

    def split(self, values: np.ndarray) -> Parts | None:
        """A table of values for each row (output) and an index per weight; None where a row has more than 64 values, or half as many as
        weights."""
        rows, columns = values.shape
        if rows < 2 or columns < 4:
            return None
        found = [np.unique(row, return_inverse=True) for row in pattern(values[:4])]
        if max(len(table) for table, _ in found) > min(64, columns // 2):
            return None
        found += [np.unique(row, return_inverse=True) for row in pattern(values[4:])]
        longest = max(len(table) for table, _ in found)
        if longest > min(64, columns // 2):
            return None
        tables = np.stack([np.pad(table, (0, longest - len(table)), mode="edge") for table, _ in found])
        index = np.concatenate([index for _, index in found])
        return Parts((longest,), (*bytes_of(tables.reshape(-1)), Stream(index.astype(np.uint32), width_of(longest - 1))))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        tables = from_bytes(streams[:-1], dtype).reshape(shape[0], facts[0])
        return np.take_along_axis(tables, streams[-1].reshape(shape).astype(np.int64), 1)
