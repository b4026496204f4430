"""Symbols of few bits as bytes: packed at a fixed width, or coded by their frequencies (asymmetric numeral systems, Duda 2013,
https://arxiv.org/abs/1311.2540, as the library constriction does it)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from autoslim.errors import UserError

Method = Literal["f", "a"]
#: widest symbols whose frequencies are counted
WIDEST = 12
SCALE = 65_535


@dataclass(frozen=True)
class Stream:
    """``symbols``, (n,) unsigned integers below 2^width. Width 0: all are 0 and nothing is stored."""

    symbols: np.ndarray
    width: int

    @property
    def fixed_bytes(self) -> int:
        """Bytes at a fixed width: what :func:`encode` without entropy coding needs, exactly."""
        return fixed_bytes(len(self.symbols), self.width)


@dataclass(frozen=True)
class Parts:
    """What a coder (coders/) makes of an array. ``facts``: small integers that the index keeps; ``streams``: what is stored."""

    facts: tuple[int, ...]
    streams: tuple[Stream, ...]

    @property
    def fixed_bytes(self) -> int:
        """Bytes of the streams at their fixed widths."""
        return sum(stream.fixed_bytes for stream in self.streams)


def fixed_bytes(count: int, width: int) -> int:
    """Bytes of ``count`` symbols of ``width`` bits, the last byte filled up."""
    return -(-count * width // 8)


def width_of(largest: int) -> int:
    """Bits that a symbol from 0 to ``largest`` needs."""
    return int(largest).bit_length()


def encode(stream: Stream, entropy: bool = True) -> tuple[Method, bytes]:
    """(how, bytes): the shorter of both ways, or the fixed width alone."""
    fixed = to_bits(stream.symbols, stream.width)
    if entropy and estimate(stream) < len(fixed):
        coded = to_frequencies(stream)
        if len(coded) < len(fixed):
            return "a", coded
    return "f", fixed


def decode(method: str, data: bytes, count: int, width: int) -> np.ndarray:
    """The symbols, (count,) uint32. Raises ValueError for bytes that are no such stream."""
    if method == "f":
        if len(data) != fixed_bytes(count, width):
            raise ValueError(f"{len(data)} bytes for {count} symbols of {width} bits")
        return from_bits(data, count, width)
    if method == "a":
        return from_frequencies(data, count, width)
    raise ValueError(f"unknown coding {method!r}")


def estimate(stream: Stream) -> float:
    """Bytes that coding by frequencies needs, within a few: the entropy of the symbols and the table of frequencies."""
    if not 0 < stream.width <= WIDEST or not len(stream.symbols):
        return float("inf")
    counts = np.bincount(stream.symbols, minlength=2**stream.width)
    shares = counts[counts > 0] / len(stream.symbols)
    return float(-(shares * np.log2(shares)).sum() * len(stream.symbols) / 8) + 2 * len(counts) + 4


def to_bits(symbols: np.ndarray, width: int) -> bytes:
    """Least significant bit first, without gaps."""
    if width == 0:
        return b""
    if width in (8, 16, 32):
        return symbols.astype(f"<u{width // 8}").tobytes()
    bits = (symbols.astype(np.uint32)[:, None] >> np.arange(width, dtype=np.uint32)) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def from_bits(data: bytes, count: int, width: int) -> np.ndarray:
    """The inverse of :func:`to_bits`."""
    if width == 0:
        return np.zeros(count, np.uint32)
    if width in (8, 16, 32):
        return np.frombuffer(data, f"<u{width // 8}").astype(np.uint32)
    bits = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")[: count * width].reshape(count, width)
    return (bits.astype(np.uint32) << np.arange(width, dtype=np.uint32)).sum(1, dtype=np.uint32)


def to_frequencies(stream: Stream) -> bytes:
    """A table of 2^width frequencies of 16 bits, then the words of the coder."""
    counts = np.bincount(stream.symbols, minlength=2**stream.width)
    table = np.where(counts > 0, np.maximum(1, np.round(counts / counts.max() * SCALE)), 0).astype("<u2")
    if int((table > 0).sum()) == 1:  # a distribution of one symbol has no code
        table[(int(table.argmax()) + 1) % len(table)] = 1
    coder = library().stream.stack.AnsCoder()
    coder.encode_reverse(stream.symbols.astype(np.int32), distribution(table))
    return table.tobytes() + coder.get_compressed().astype("<u4").tobytes()


def from_frequencies(data: bytes, count: int, width: int) -> np.ndarray:
    """The inverse of :func:`to_frequencies`."""
    size = 2 * 2**width
    if not 0 < width <= WIDEST or len(data) < size or (len(data) - size) % 4:
        raise ValueError(f"{len(data)} bytes for a table of {2**width} frequencies and words")
    table, words = np.frombuffer(data[:size], "<u2"), np.frombuffer(data[size:], "<u4").astype(np.uint32)
    if not table.any():
        raise ValueError("all frequencies are 0")
    coder = library().stream.stack.AnsCoder(words)
    symbols = coder.decode(distribution(table), count)
    return np.asarray(symbols).astype(np.uint32)


def distribution(table: np.ndarray):  # noqa: ANN201 - a class of an optional library
    """The coder's model of a table of frequencies; the same on every machine, since it is made of exact divisions."""
    return library().stream.model.Categorical(table / table.sum(dtype=np.float64), perfect=False)


def library():  # noqa: ANN201 - a module of an optional library
    """The module constriction. Raises UserError where it is not installed."""
    try:
        import constriction
    except ModuleNotFoundError:
        raise UserError("packed files: need the package 'constriction', which is not installed; pip install autoslim[pack]") from None
    return constriction
