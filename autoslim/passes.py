"""One pass over batches that a user's code gives: drawn in a gradient mode of its own, and counted."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from autoslim.crumbs import running
from autoslim.inputs import Inputs, batch_size

_END = object()


def drawn(iterable: Iterable, what: str) -> Iterator[Any]:
    """Its items, drawn and let go in the caller's gradient mode: a generator that yields within ``torch.no_grad()`` would leave
    that mode to whoever draws from it. ``what`` is the crumb while an item is drawn."""
    rest = iter(iterable)
    inside = torch.is_grad_enabled()
    try:
        while True:
            outside = torch.is_grad_enabled()
            torch.set_grad_enabled(inside)  # a generator in the middle of its no_grad block goes on in it
            try:
                with running(what):
                    batch = next(rest, _END)
                inside = torch.is_grad_enabled()
            finally:
                torch.set_grad_enabled(outside)
            if batch is _END:
                return
            yield batch
    finally:
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            getattr(rest, "close", int)()


class Counted:
    """An iterable of batches that counts the samples that went through it."""

    def __init__(self, batches: Iterable) -> None:
        self._batches, self.n = batches, 0

    def __iter__(self) -> Iterator[tuple[Inputs, Any]]:
        for inputs, targets in self._batches:
            self.n += batch_size(inputs)
            yield inputs, targets
