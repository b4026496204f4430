"""Codebook: a table of the distinct values of the whole tensor, and an index for each weight."""

import numpy as np

from autoslim.coders._bytes import bytes_of, from_bytes, pattern
from autoslim.streams import Parts, Stream, width_of


class Member:
    """At most 256 distinct values k; k * itemsize + ceil(n * bits(k) / 8) bytes."""

    def split(self, values: np.ndarray) -> Parts | None:
        """A table of the values that occur and an index per weight; None beyond 256 values."""
        if len(np.unique(pattern(values.reshape(-1)[:1024]))) > 256:
            return None
        table, index = np.unique(pattern(values.reshape(-1)), return_inverse=True)
        if not 0 < len(table) <= 256:
            return None
        return Parts((len(table),), (*bytes_of(table), Stream(index.astype(np.uint32), width_of(len(table) - 1))))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        return from_bytes(streams[:-1], dtype)[streams[-1]].reshape(shape)
