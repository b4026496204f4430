"""A float graph whose weights become, layer after layer, what the file will hold: what a later layer reads in it is what it will read."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from autoslim.calibration import Feed, Geometry, Seen, observe
from autoslim.onnx_graph import free


class Replay:
    """``model`` is copied. ``wanted``: {tensor: geometries of its readers}, and ``many``, as first observed, so that the same rows are picked."""

    def __init__(
        self, model: onnx.ModelProto, wanted: Mapping[str, Iterable[Geometry]], feeds: Sequence[Feed], many: Collection[str]
    ) -> None:
        self.model = onnx.ModelProto.FromString(model.SerializeToString())
        self.constants = {item.name: item for item in self.model.graph.initializer}
        self.wanted, self.feeds, self.many = wanted, feeds, many

    def replace(self, name: str, value: np.ndarray) -> None:
        """Give a constant another value, in its own shape and type."""
        old = self.constants[name]
        kind = onnx.helper.tensor_dtype_to_np_dtype(old.data_type)
        old.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value.reshape(tuple(old.dims)), kind), name))

    def seen(self, tensors: Iterable[str]) -> dict[str, Seen]:
        """What the tensors hold now."""
        some = {name: self.wanted[name] for name in tensors if name in self.wanted}
        return observe(before(self.model, some), some, self.feeds, self.many) if some else {}


def before(model: onnx.ModelProto, tensors: Iterable[str]) -> onnx.ModelProto:
    """The part of a graph that computes ``tensors``; all inputs stay, no outputs."""
    made = {output: node for node in model.graph.node for output in node.output}
    needed, waiting = set(), list(tensors)
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            node = made.get(name)
            waiting += [] if node is None else [*node.input, *free(node)]
    part = onnx.ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name
    part.graph.input.extend(model.graph.input)
    part.graph.initializer.extend(item for item in model.graph.initializer if item.name in needed)
    part.graph.node.extend(node for node in model.graph.node if needed & set(node.output))
    return part
