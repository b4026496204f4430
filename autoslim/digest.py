"""A fingerprint of data that was passed over: the same samples give the same digest, in whatever order and batches they come."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim.inputs import batch_size

BITS = 64
#: what is the same in another process where its representation is
PLAIN = (str, bytes, bool, int, float, complex, type(None), np.generic)


class Formless(Exception):
    """An object whose content cannot be read from outside."""


class Digest:
    """The sum, modulo 2^64, of the hashes of all samples; what batches hold beside their samples counts once, however often."""

    def __init__(self) -> None:
        self._sum, self._samples = 0, 0
        self._rest: set[int] = set()
        self._formless = False

    def add(self, inputs: Any, targets: Any) -> None:
        """One batch. Tensors, arrays and lists whose length is the batch's are cut into samples."""
        size = batch_size(inputs)
        own, rest = parts((inputs, targets), size)
        self._samples += size
        try:
            self._rest |= {hashed(leaf) for leaf in rest}
            self._sum += sum(samples(own, size))
        except Formless:
            self._formless = True

    def text(self) -> str | None:
        """Number of samples and sum, as one word; None where a batch held objects that only their memory address tells apart."""
        return None if self._formless else f"{self._samples}-{(self._sum + sum(self._rest)) % 2**BITS:016x}"


def parts(batch: Any, size: int) -> tuple[list[Any], list[Any]]:
    """(leaves with an entry per sample, other leaves) of a batch of ``size``."""

    def is_list(part: Any) -> bool:
        return isinstance(part, list) and len(part) == size

    own: list[Any] = []
    rest: list[Any] = []
    for leaf in pytree.tree_leaves(batch, is_leaf=is_list):
        split = is_list(leaf) or isinstance(leaf, Tensor | np.ndarray) and leaf.ndim and len(leaf) == size
        (own if split else rest).append(leaf)
    return own, rest


def samples(own: list[Any], size: int) -> list[int]:
    """The hash of each sample, of what ``parts`` found. Raises Formless."""
    return [hashed(*(leaf[place] for leaf in own)) for place in range(size)]


def hashed(*several: Any) -> int:
    """BLAKE2b: of tensors and arrays their type, shape and bytes, of containers their form and leaves, of plain values their representation.
    Raises Formless for anything else."""
    made = hashlib.blake2b(digest_size=BITS // 8)
    for part in several:
        leaves, form = pytree.tree_flatten(part)
        if len(leaves) != 1 or leaves[0] is not part:
            made.update(repr(form).encode())
        for leaf in leaves:
            feed(made, leaf)
    return int.from_bytes(made.digest(), "big")


def feed(made: Any, leaf: Any) -> None:
    """Add one leaf to a hash under way. Raises Formless for what only its address tells apart."""
    if isinstance(leaf, Tensor):
        made.update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
        made.update(np.ascontiguousarray(leaf.detach().cpu().reshape(-1).view(torch.uint8).numpy()))
    elif isinstance(leaf, np.ndarray) and leaf.dtype != object:
        made.update(f"{leaf.dtype}{leaf.shape}".encode())
        made.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8))
    elif isinstance(leaf, PLAIN):
        made.update(f"{type(leaf).__name__} {leaf!r};".encode())
    else:
        raise Formless(type(leaf).__name__)
