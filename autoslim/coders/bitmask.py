"""Bitmask: one bit for each weight says whether it is zero, and the others follow, as they are or from a table."""

import numpy as np

from autoslim.coders import _sparse
from autoslim.coders._bytes import pattern
from autoslim.streams import Parts, Stream


class Member:
    """n weights, m of them not zero: ceil(n / 8) bytes and those of the m values."""

    def split(self, values: np.ndarray) -> Parts | None:
        """A bit per place and the values that are not zero; None where too few are zero."""
        live = pattern(values.reshape(-1)) != 0
        if not _sparse.worth_it(live):
            return None
        facts, streams = _sparse.split(values.reshape(-1)[live])
        return Parts(facts, (Stream(live.astype(np.uint32), 1), *streams))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """The tensor (outputs, inputs) of ``shape``, bit for bit."""
        made = np.zeros(shape[0] * shape[1], dtype)
        made[streams[0].astype(bool)] = _sparse.join(facts, streams[1:], dtype)
        return made.reshape(shape)
