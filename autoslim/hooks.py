"""A model is run with hooks on it, and the hooks are taken off again whatever happens."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from autoslim.inputs import Inputs, call


def watched(
    model: nn.Module, batches: Iterable[Inputs], handles: Iterable[RemovableHandle], pause: Callable[[], None] = lambda: None
) -> None:
    """Run ``model`` on each batch, without gradients; then remove ``handles``, those of the hooks that look on. Without hooks nothing is run.
    ``pause`` is called before each batch. Errors of the model pass through."""
    hooks = list(handles)
    try:
        with torch.no_grad():
            for inputs in batches if hooks else ():
                pause()
                call(model, inputs)
    finally:
        for handle in hooks:
            handle.remove()
