"""An ONNX graph with its look-ups: constants by name, who makes and who reads a tensor; and the few ways it is edited."""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import numpy_helper


class Graph:
    """A view of ``model``; the look-ups are those of the moment :meth:`look` was last called."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.look()

    def look(self) -> None:
        """Look everything up anew; needed after nodes came or went."""
        graph = self.model.graph
        self.constants = {item.name: item for item in graph.initializer}
        self.made_by = {output: node for node in graph.node for output in node.output if output}
        self.outputs = {item.name for item in graph.output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                if name:
                    self.readers.setdefault(name, []).append(node)

    def array(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self.constants[name])

    def reads(self, node: onnx.NodeProto) -> list[str]:
        """A node's inputs that are no constants."""
        return [name for name in node.input if name and name not in self.constants]

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add an initializer, unless an equal one has that name; returns its name. Four-bit values are packed two to a byte."""
        made = numpy_helper.from_array(np.asarray(value, order="C"), name)
        while name in self.constants and self.constants[name].SerializeToString() != made.SerializeToString():
            name = made.name = f"{name}_2"
        if name not in self.constants:
            self.model.graph.initializer.append(made)
            self.constants[name] = self.model.graph.initializer[-1]
        return name

    def node(
        self, op: str, inputs: list[str], outputs: list[str], name: str, like: onnx.NodeProto | None = None, **attributes: object
    ) -> str:
        """Add a node (anywhere: :meth:`tidy` sorts), with the module scope of ``like``; returns its first output."""
        made = onnx.helper.make_node(op, inputs, outputs, name=name, **attributes)
        if like is not None:
            made.metadata_props.extend(like.metadata_props)
        self.model.graph.node.append(made)
        return outputs[0]

    def redirect(self, nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
        """Let ``nodes`` read ``new`` in the place of ``old``."""
        for node in nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def merge(self) -> None:
        """Let constants that hold the same be one, the first, so that weights which several layers share are stored once."""
        first: dict[tuple, str] = {}
        again: dict[str, str] = {}
        for item in self.model.graph.initializer:
            key = item.data_type, tuple(item.dims), numpy_helper.to_array(item).tobytes()
            if item.dims and first.setdefault(key, item.name) != item.name:
                again[item.name] = first[key]
        for old, new in again.items():
            if old not in self.outputs and not any(old in free(node) for node in self.model.graph.node):
                self.redirect(self.readers.get(old, []), old, new)
        self.tidy()

    def need_domain(self, domain: str, version: int) -> None:
        """Make sure that the model imports at least this version of an operator set."""
        for entry in self.model.opset_import:
            if entry.domain == domain:
                entry.version = max(entry.version, version)
                return
        self.model.opset_import.append(onnx.helper.make_opsetid(domain, version))

    def tidy(self) -> None:
        """Sort the nodes so that each follows what it reads, drop constants and shapes that nothing names any more."""
        graph = self.model.graph
        ready = {item.name for item in (*graph.input, *graph.initializer)} | {""}
        waiting, ordered = list(graph.node), []
        while waiting:
            later = []
            for node in waiting:
                if all(name in ready for name in (*node.input, *free(node))):
                    ready.update(node.output)
                    ordered.append(node)
                else:
                    later.append(node)
            if len(later) == len(waiting):
                raise ValueError(f"the graph has a circle or lacks a tensor near {later[0].name!r}")
            waiting = later
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
        del graph.node[:]
        graph.node.extend(kept)
        used = {name for node in graph.node for name in (*node.input, *free(node))} | {item.name for item in graph.output}
        for index in reversed([i for i, item in enumerate(graph.initializer) if item.name not in used]):
            del graph.initializer[index]
        known = {name for node in graph.node for name in node.output}
        for index in reversed([i for i, item in enumerate(graph.value_info) if item.name not in known]):
            del graph.value_info[index]
        self.look()


def free(node: onnx.NodeProto) -> list[str]:
    """Tensors of the outer graph that a node's inner graphs read."""
    found: list[str] = []
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            inner = attribute.g
            own = {item.name for item in (*inner.input, *inner.initializer)} | {name for one in inner.node for name in one.output}
            found += [name for one in inner.node for name in (*one.input, *free(one)) if name and name not in own]
            found += [item.name for item in inner.output if item.name not in own]
    return found


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """The value of a node's attribute."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)
