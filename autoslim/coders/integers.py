"""Integers: whole numbers above the smallest one, in as many bits as their range needs."""

import numpy as np

from autoslim.streams import Parts, Stream, width_of


class Member:
    """Integer types whose range needs at most 16 bits; ceil(n * bits / 8) bytes."""

    def split(self, values: np.ndarray) -> Parts | None:
        """The lowest value and the distance of each from it; None for floats and for ranges of more than 16 bits."""
        if values.dtype.kind not in "iu" or not values.size:
            return None
        low, high = int(values.min()), int(values.max())
        width = width_of(high - low)
        if width > 16:
            return None
        return Parts((low,), (Stream((values.reshape(-1).astype(object) - low).astype(np.uint32), width),))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        return (streams[0].astype(np.int64) + facts[0]).astype(dtype).reshape(shape)
