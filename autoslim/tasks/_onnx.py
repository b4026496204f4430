"""``--model onnx:FILE``: the network of an ONNX file, converted to PyTorch by onnx2torch and checked against the file.

The converted network is believed only if it computes on an example what ONNX Runtime computes from the file.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from autoslim.errors import UserError
from autoslim.inputs import Inputs, call, distance
from autoslim.tasks import _npz, _onnx_graph, _onnx_modules, _source

ARGUMENTS = ()
ALLOWED = {"npz": "FOLDER (train.npz, val.npz, test.npz with x and y)", "random": "N (N batches of noise)"}
#: largest relative difference between the converted network and the file; float32 rounding stays far below
TOLERANCE = 1e-3


def model(name: str, data: str) -> nn.Module:
    """The file's network. Raises UserError for operators that cannot be converted, and if the conversion computes something
    else than the file."""
    graph = _graph(name)
    example = example_input(name, data)
    net = _onnx_modules.convert(graph, _feed(graph, example)).eval()
    with torch.no_grad():
        got = call(net, example)
    gap = _gap(got, _by_file(graph, example))
    if not gap <= TOLERANCE:
        raise UserError(f"--model: {name!r} converted by onnx2torch computes something else than the file (relative difference {gap:.2g})")
    return net


def example_input(name: str, data: str) -> Inputs:
    """The first sample of ``--data npz``, else noise of the graph's own shapes with free axes of 1."""
    kind, where = _source.read(data, ALLOWED)
    graph = _graph(name)
    if kind == "npz":
        return _form(graph, _npz.first(graph, where))
    return _form(graph, _noise(graph, graph.batch or 1, torch.Generator().manual_seed(0)))


def data(split: str, name: str, data: str) -> Iterator[tuple[Inputs, Tensor | None]]:
    """Batches of (inputs, class numbers or None), in the graph's batch size where it has one."""
    kind, where = _source.read(data, ALLOWED)
    graph = _graph(name)
    if kind == "npz":
        return ((_form(graph, arrays), targets) for arrays, targets in _npz.batches(split, graph, where))
    return _random(graph, _source.random_batches(where), _source.generator(split))


@lru_cache(maxsize=2)
def _graph(name: str) -> _onnx_graph.Graph:
    return _onnx_graph.read(name)


def _random(graph: _onnx_graph.Graph, count: int, generator: torch.Generator) -> Iterator[tuple[Inputs, None]]:
    size = graph.batch or _source.BATCH
    for _ in range(count * _source.BATCH // size):
        yield _form(graph, _noise(graph, size, generator)), None


def _noise(graph: _onnx_graph.Graph, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """{input: tensor}: normal noise for floats, rows of the table for integers that look one up, else ones."""
    found = {}
    for port in graph.inputs:
        shape = [size, *(axis or 1 for axis in port.shape[1:])]
        if port.kind.is_floating_point:
            found[port.name] = torch.randn(shape, generator=generator, dtype=port.kind)
        elif port.table:
            found[port.name] = torch.randint(port.table, shape, generator=generator, dtype=port.kind)
        else:
            found[port.name] = torch.ones(shape, dtype=port.kind)
    return found


def _form(graph: _onnx_graph.Graph, arrays: Mapping[str, Tensor]) -> Inputs:
    """As forward() takes them: a tensor for one input, else a dict by the inputs' names in Python."""
    if len(graph.inputs) == 1:
        return arrays[graph.inputs[0].name]
    return {port.word: arrays[port.name] for port in graph.inputs}


def _feed(graph: _onnx_graph.Graph, inputs: Inputs) -> dict[str, np.ndarray]:
    """{graph input: array}."""
    if isinstance(inputs, Tensor):
        return {graph.inputs[0].name: inputs.numpy()}
    return {port.name: inputs[port.word].numpy() for port in graph.inputs}


def _by_file(graph: _onnx_graph.Graph, inputs: Inputs) -> tuple[Tensor, ...]:
    """What ONNX Runtime computes from the file itself."""
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    return tuple(torch.from_numpy(np.asarray(value)) for value in session.run(None, _feed(graph, inputs)))


def _gap(got: Any, want: tuple[Tensor, ...]) -> float:
    """Relative difference; infinite for other shapes."""
    got = (got,) if isinstance(got, Tensor) else tuple(got)
    if [x.shape for x in got] != [x.shape for x in want]:
        return float("inf")
    return distance(got, want)
