"""Second moments of what the layers of a model read, summed up over a few samples at a time: no layer's readings are ever held as a whole."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from autoslim import unrolling
from autoslim.inputs import Inputs, batch_size, call, rows
from autoslim.layers import CELLS
from autoslim.memory import trim
from autoslim.readings import as_matrices, readable
from autoslim.resolving import patches

#: samples that run at once, and how many times the model's bytes the sums of one pass may take
PIECE, SUMS = 16, 2


class _Enough(Exception):
    """All layers of a pass have read these samples; the rest of the model need not run."""


def visit(model: nn.Module, batches: Sequence[Inputs]) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(name, weight (groups, outputs, columns), (groups, columns, columns) float32 mean of x x^T over the rows x that it reads) of every
    matrix that runs: of each readable layer, and of each recurrent layer or cell several, called LAYER.weight_ih_l0 and the like.

    Rows are what one output of each group reads at some positions of every sample (``resolving.patches``), the first time that the layer
    runs; of recurrent layers at every step (``unrolling.reads``), of cells in every call. Layers come in the order of the modules. A pass over ``batches`` serves as many of them as have sums of together SUMS times the
    model's bytes, at least one; those of a pass are gone when the next begins. The model is not changed.
    """
    for names in passes(model):
        sums = moments(model, names, batches)
        trim()  # the C library would keep what the model's run needed
        for layer in names:
            for name, weight in weights_of(layer, model.get_submodule(layer)).items():
                if name in sums:
                    yield name, weight, sums.pop(name)


def weights_of(name: str, module: nn.Module) -> dict[str, Tensor]:
    """{name: (groups, outputs, columns)} of a layer's matrices, copies; of layers whose readings are not known none."""
    if readable(module):
        return {name: as_matrices(module)}
    return {f"{name}.{one}".lstrip("."): getattr(module, one).detach()[None].clone() for one in unrolling.matrices(module)}


def passes(model: nn.Module) -> list[list[str]]:
    """Names of the layers with matrices, by pass."""
    room = SUMS * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    found: list[list[str]] = []
    left = 0
    for name, module in model.named_modules():
        shapes = [matrices.shape for matrices in weights_of(name, module).values()]
        if not shapes:
            continue
        need = sum(4 * groups * columns**2 for groups, _, columns in shapes)
        if not found or need > left:
            found.append([])
            left = room
        found[-1].append(name)
        left -= need
    return found


def moments(model: nn.Module, names: Sequence[str], batches: Sequence[Inputs]) -> dict[str, Tensor]:
    """{matrix: its moments} of those of the layers ``names`` that run."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    seen: set[str] = set()

    def watch(name: str) -> Callable:
        """A hook that adds what the layer reads to its moments, and ends the run when all layers were seen. A cell may always be called again."""

        def hook(module: nn.Module, args: tuple, named: dict) -> None:
            if name in seen or not (args or named):
                return
            for matrix, read in read_by(name, module, (*args, *named.values())).items():
                if matrix not in sums:
                    sums[matrix] = torch.zeros(read.shape[1], read.shape[2], read.shape[2])
                sums[matrix].baddbmm_(read.permute(1, 2, 0), read.transpose(0, 1))
                counts[matrix] = counts.get(matrix, 0) + len(read)
            if not isinstance(module, CELLS):
                seen.add(name)
            if len(seen) == len(names):
                raise _Enough

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name), with_kwargs=True) for name in names]
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


def read_by(name: str, module: nn.Module, args: tuple) -> dict[str, Tensor]:
    """{matrix: (rows, groups, columns) that it reads} in one call of a layer."""
    if readable(module):
        read = patches(name, module, args[0])
        return {name: read.reshape(len(read), getattr(module, "groups", 1), -1).float()}
    return {f"{name}.{matrix}".lstrip("."): read[:, None].float() for matrix, read in unrolling.reads(module, args).items()}


def pieces(batches: Sequence[Inputs]) -> Iterator[Inputs]:
    """At most PIECE samples at a time."""
    for inputs in batches:
        for start in range(0, batch_size(inputs), PIECE):
            yield rows(inputs, start, start + PIECE)
