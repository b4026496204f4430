"""Values as bytes and bit patterns."""

import numpy as np

from autoslim.streams import Stream


def bytes_of(values: np.ndarray) -> tuple[Stream, ...]:
    """One stream per byte of a value, least significant first: signs and exponents repeat, mantissas do not."""
    planes = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8).reshape(values.size, values.itemsize)
    return tuple(Stream(planes[:, place].copy(), 8) for place in range(values.itemsize))


def from_bytes(streams: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    """The inverse of :func:`bytes_of`, (n,)."""
    return np.frombuffer(np.stack(streams, 1).astype(np.uint8).tobytes(), dtype)


def pattern(values: np.ndarray) -> np.ndarray:
    """The bit patterns as unsigned integers of the same width: -0.0 is not 0.0, and a NaN equals itself."""
    return np.ascontiguousarray(values).view(f"u{values.itemsize}")
