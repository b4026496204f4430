"""Arrays from ``train.npz``, ``val.npz`` and ``test.npz``: the graph's inputs by their names (or ``x``, if there is one) and
``y`` (samples,), the class numbers; without ``y`` there are no targets."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autoslim.errors import UserError
from autoslim.tasks import _source
from autoslim.tasks._onnx_graph import Graph, Port


def first(graph: Graph, where: str) -> dict[str, Tensor]:
    """{input: tensor} of the first sample of ``val`` (of the first batch, if the graph has a batch size)."""
    inputs, _ = _load(graph, where, "val")
    return {name: value[: graph.batch or 1] for name, value in inputs.items()}


def batches(split: str, graph: Graph, where: str) -> Iterator[tuple[dict[str, Tensor], Tensor | None]]:
    """Batches of ({input: tensor}, class numbers (batch,) or None); samples that do not fill a graph's batch are left out."""
    inputs, targets = _load(graph, where, split)
    size, total = graph.batch or _source.BATCH, len(next(iter(inputs.values())))
    order = torch.tensor(_source.mixed(total))
    for start in range(0, total - total % graph.batch if graph.batch else total, size):
        places = order[start : start + size]
        yield {name: value[places] for name, value in inputs.items()}, None if targets is None else targets[places]


def _load(graph: Graph, where: str, split: str) -> tuple[dict[str, Tensor], Tensor | None]:
    path = _source.split_file(where, split, ".npz")
    arrays = _arrays(path)
    found = {port.name: arrays[_key(port, graph, list(arrays), str(path))] for port in graph.inputs}
    labels = arrays["y"] if "y" in arrays and "y" not in found else None
    inputs = {port.name: _fitting(port, found[port.name], str(path)) for port in graph.inputs}
    sizes = {len(value) for value in (*found.values(), *([] if labels is None else [labels]))}
    if len(sizes) > 1 or min(sizes) < (graph.batch or 1):
        raise UserError(f"--data: {str(path)!r} has arrays of {sorted(sizes)} samples, expected one number from {graph.batch or 1}")
    return inputs, None if labels is None else _classes(labels, str(path))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:  # AttributeError: a lone array, no archive
        raise UserError(f"--data: {str(path)!r} is no archive of plain arrays ({type(error).__name__})") from error


def _key(port: Port, graph: Graph, there: list[str], path: str) -> str:
    """The array of an input: by the graph's name, or "x" for the only input."""
    allowed = [port.name, *(["x"] if len(graph.inputs) == 1 else [])]
    for name in allowed:
        if name in there:
            return name
    raise UserError(f"--data: {path!r} has the arrays {', '.join(there) or 'none'}, expected {' or '.join(map(repr, allowed))}")


def _fitting(port: Port, value: np.ndarray, path: str) -> Tensor:
    """The array in the input's type; raises UserError if its shape is another one."""
    fits = value.ndim == len(port.shape) and all(axis in (None, n) for axis, n in zip(port.shape[1:], value.shape[1:], strict=True))
    if not fits:
        shape = ", ".join("any" if axis is None else str(axis) for axis in port.shape[1:])
        raise UserError(f"--data: {path!r} has {port.name!r} of shape {value.shape}, expected (samples, {shape})")
    return torch.from_numpy(value).to(port.kind)


def _classes(labels: np.ndarray, path: str) -> Tensor:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"--data: {path!r} has 'y' of shape {labels.shape} and type {labels.dtype}, expected one integer class per sample")
    return torch.from_numpy(labels.astype(np.int64))
