"""Plain: every value as it is, one stream per byte."""

import numpy as np

from autoslim.coders._bytes import bytes_of, from_bytes
from autoslim.streams import Parts


class Member:
    """Any type; n * itemsize bytes."""

    def split(self, values: np.ndarray) -> Parts | None:
        return Parts((), bytes_of(values.reshape(-1)))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        return from_bytes(streams, dtype).reshape(shape)
