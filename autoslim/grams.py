"""Second moments of what the layers of a model read, summed up over a few samples at a time: no layer's readings are ever held as a whole."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from autoslim.inputs import Inputs, batch_size, call, rows
from autoslim.memory import trim
from autoslim.readings import readable
from autoslim.resolving import patches

#: samples that run at once, and how many times the model's bytes the sums of one pass may take
PIECE, SUMS = 16, 2


class _Enough(Exception):
    """All layers of a pass have read these samples; the rest of the model need not run."""


def visit(model: nn.Module, batches: Sequence[Inputs]) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """(name, layer, (groups, columns, columns) float32 mean of x x^T over the rows x that it reads) of every readable layer that runs.

    Rows are what one output of each group reads at some positions of every sample (``resolving.patches``), the first time that the layer
    runs. Layers come in the order of the modules. A pass over ``batches`` serves as many of them as have sums of together SUMS times the
    model's bytes, at least one; those of a pass are gone when the next begins. The model is not changed.
    """
    for names in passes(model):
        sums = moments(model, names, batches)
        trim()  # the C library would keep what the model's run needed
        for name in [name for name in names if name in sums]:
            yield name, model.get_submodule(name), sums.pop(name)


def passes(model: nn.Module) -> list[list[str]]:
    """Names of the readable layers, by pass."""
    room = SUMS * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    found: list[list[str]] = []
    left = 0
    for name, module in model.named_modules():
        if not readable(module):
            continue
        need = 4 * getattr(module, "groups", 1) * module.weight[0].numel() ** 2
        if not found or need > left:
            found.append([])
            left = room
        found[-1].append(name)
        left -= need
    return found


def moments(model: nn.Module, names: Sequence[str], batches: Sequence[Inputs]) -> dict[str, Tensor]:
    """{layer: its moments} of those of ``names`` that run."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    seen: set[str] = set()

    def watch(name: str) -> Callable:
        """A hook that adds what the layer reads to its moments, and ends the run when all layers were seen."""

        def hook(module: nn.Module, args: tuple) -> None:
            if name in seen or not args:
                return
            seen.add(name)
            read = patches(name, module, args[0])
            read = read.reshape(len(read), getattr(module, "groups", 1), -1).float()
            if name not in sums:
                sums[name] = torch.zeros(read.shape[1], read.shape[2], read.shape[2])
            sums[name].baddbmm_(read.permute(1, 2, 0), read.transpose(0, 1))
            counts[name] = counts.get(name, 0) + len(read)
            if len(seen) == len(names):
                raise _Enough

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        with torch.no_grad():
            for piece in pieces(batches):
                seen.clear()
                with contextlib.suppress(_Enough):
                    call(model, piece)
    finally:
        for handle in handles:
            handle.remove()
    for name, total in sums.items():
        total /= counts[name]
    return sums


def pieces(batches: Sequence[Inputs]) -> Iterator[Inputs]:
    """At most PIECE samples at a time."""
    for inputs in batches:
        for start in range(0, batch_size(inputs), PIECE):
            yield rows(inputs, start, start + PIECE)
