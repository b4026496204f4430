"""Gaps: the distance from each weight that is not zero to the one before, and their values, as they are or from a table."""

import numpy as np

from autoslim.coders import _sparse
from autoslim.coders._bytes import pattern
from autoslim.streams import Parts, Stream, fixed_bytes


class Member:
    """m weights that are not zero, gaps of g bits (Han et al. 2016, https://arxiv.org/abs/1510.00149, section 2: a longer gap has a zero
    as a stopover): ceil((m + stopovers) g / 8) bytes and those of the values."""

    def split(self, values: np.ndarray) -> Parts | None:
        """The distances between values that are not zero, at the width that needs least, and the values; None where too few are zero."""
        flat = values.reshape(-1)
        live = pattern(flat) != 0
        if not _sparse.worth_it(live):
            return None
        gaps = np.diff(np.flatnonzero(live), prepend=-1) - 1
        width = min(range(1, 13), key=lambda bits: fixed_bytes(len(gaps) + int((gaps // (2**bits - 1)).sum()), bits))
        full = 2**width - 1  # "so many zeros and no value"
        stops = gaps // full
        symbols = np.full(len(gaps) + int(stops.sum()), full, np.uint32)
        symbols[np.cumsum(stops + 1) - 1] = gaps % full
        facts, streams = _sparse.split(flat[live])
        return Parts((width, *facts), (Stream(symbols, width), *streams))

    def join(self, facts: list[int], streams: list[np.ndarray], shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """The tensor (outputs, inputs) of ``shape``, bit for bit."""
        full = 2 ** facts[0] - 1
        ends = streams[0] != full
        places = np.cumsum(streams[0].astype(np.int64) + ends)[ends] - 1
        made = np.zeros(shape[0] * shape[1], dtype)
        made[places] = _sparse.join(facts[1:], streams[1:], dtype)
        return made.reshape(shape)
