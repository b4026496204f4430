"""What one pass over a split gave: outputs by batch, for figures that need all of them, as far as they fit in little memory."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim.digest import Digest
from autoslim.errors import AutoSlimError
from autoslim.inputs import Inputs, batch_size
from autoslim.memory import trim

#: bytes that one pass may keep; verification holds two, that of the untouched file and that of the file at hand
MOST_BYTES = 50_000_000
#: bytes of batches after which free pieces of memory between what is kept are given back to the system (measured: a pass over 4 GB took 4 GB more)
GIVEN_BACK = 256_000_000


class Unseen(AutoSlimError):
    """The outputs of inputs are asked for that no batch held."""


class Outputs:
    """Batches and their outputs, kept while they are few, so that resampling costs no inference.

    Inputs are kept only where ``inputs`` says that the metric needs them (a corpus ``evaluate()``, which looks outputs up by the inputs that
    it passes on). Elsewhere a stand-in without content has their place. Above MOST_BYTES nothing is kept, and ``whole`` is False. A ``digest``
    gets all of the batches.
    """

    def __init__(self, run: Callable[[Inputs], Any], pause: Callable[[], None], inputs: bool, digest: Digest | None = None) -> None:
        self._run, self._pause, self._inputs = run, pause, inputs
        self.batches: list[tuple[Inputs, Any]] = []
        self._known: set[int] = set()
        self._outputs: dict[int, Any] = {}
        self._now: tuple[Inputs, Inputs] | None = None
        self.held, self._passed = 0, 0
        self.whole = True
        self.digest = digest

    def remember(self, batches: Iterable[tuple[Inputs, Any]]) -> Iterator[tuple[Inputs, Any]]:
        """The batches, as they come."""
        for inputs, targets in batches:
            if self.digest is not None:
                self.digest.add(inputs, targets)
            kept = inputs if self._inputs else torch.empty(1).expand(batch_size(inputs))
            self._now = inputs, kept
            self._passed += size_of(inputs)
            if self._passed > GIVEN_BACK:
                self._passed = 0
                trim()
            if self.whole:
                self.batches.append((kept, targets))
                self._known.add(id(kept))  # it stays alive, so that no other object gets its id
                self._hold((inputs, targets) if self._inputs else targets)
            yield inputs, targets
        self._now = None

    def predict(self, inputs: Inputs) -> Any:
        """The outputs of ``inputs``, noted if they are those of a batch."""
        self._pause()
        outputs = self._run(inputs)
        place = self._place(inputs)
        if self.whole and place in self._known:
            self._outputs[place] = pytree.tree_map(own, outputs)
            self._hold(outputs)
        return outputs

    def _place(self, inputs: Inputs) -> int | None:
        if self._inputs:
            return id(inputs)
        return id(self._now[1]) if self._now is not None and self._now[0] is inputs else None

    def _hold(self, what: Any) -> None:
        self.held += size_of(what)
        if self.held > MOST_BYTES:
            self.whole, self.held = False, 0
            self.batches.clear()
            self._known.clear()
            self._outputs.clear()

    def recall(self, inputs: Inputs) -> Any:
        """The outputs of what stands in ``batches``. Raises Unseen for any other object."""
        if id(inputs) not in self._outputs:
            raise Unseen("these inputs were not seen before")
        return self._outputs[id(inputs)]

    def pairs(self) -> list[tuple[Any, Any]]:
        """(targets, outputs) of every batch; empty where they are not kept, or where the metric ran the file on other inputs."""
        if not self.whole or any(id(inputs) not in self._outputs for inputs, _ in self.batches):
            return []
        return [(targets, self._outputs[id(inputs)]) for inputs, targets in self.batches]


def own(leaf: Any) -> Any:
    """A tensor in memory of its own: a small one that a runtime gave keeps a piece of the runtime's arena from being used again (measured:
    12 MB for 512 bytes, so that the arena grows with every batch)."""
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def size_of(value: Any) -> int:
    """Bytes of everything in a tree of tensors, arrays, texts and numbers."""
    return sum(
        leaf.numel() * leaf.element_size()
        if isinstance(leaf, Tensor)
        else leaf.nbytes
        if isinstance(leaf, np.ndarray)
        else sys.getsizeof(leaf)
        for leaf in pytree.tree_leaves(value)
    )
