"""The constants of an ONNX model, wherever they lie: taken out as arrays, put back bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx

#: bytes from which a constant is taken out; smaller ones stay in the graph
LEAST = 32
#: what a type is stored as, and the field it may be stored in instead of raw bytes
TYPES = {
    onnx.TensorProto.FLOAT: ("<f4", "float_data"),
    onnx.TensorProto.DOUBLE: ("<f8", "double_data"),
    onnx.TensorProto.FLOAT16: ("<u2", "int32_data"),
    onnx.TensorProto.BFLOAT16: ("<u2", "int32_data"),
    onnx.TensorProto.INT8: ("<i1", "int32_data"),
    onnx.TensorProto.UINT8: ("<u1", "int32_data"),
    onnx.TensorProto.INT16: ("<i2", "int32_data"),
    onnx.TensorProto.UINT16: ("<u2", "int32_data"),
    onnx.TensorProto.INT32: ("<i4", "int32_data"),
    onnx.TensorProto.INT64: ("<i8", "int64_data"),
    onnx.TensorProto.BOOL: ("<u1", "int32_data"),
}
#: types of which one byte holds several values, and how many bits each has
NARROW = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    **{getattr(onnx.TensorProto, name): 2 for name in ("INT2", "UINT2") if hasattr(onnx.TensorProto, name)},
}


@dataclass(frozen=True)
class Constant:
    """One constant. ``values``: (rows, columns), of narrow types one value each; ``raw``: whether it lay as raw bytes."""

    tensor: onnx.TensorProto
    values: np.ndarray
    raw: bool


def take(model: onnx.ModelProto) -> Iterator[Constant]:
    """Every constant of at least LEAST bytes, in a fixed order; nothing is changed. Constants in other files and of rare types are left."""
    for tensor in tensors(model):
        constant = read(tensor)
        if constant is not None:
            yield constant


def read(tensor: onnx.TensorProto) -> Constant | None:
    """The values of one tensor; None where it is small, rare or not written in the one canonical way."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return None
    count = int(np.prod(tensor.dims)) if tensor.dims else 1
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) < LEAST:
            return None
        if tensor.data_type in NARROW:
            values = widen(tensor.raw_data, NARROW[tensor.data_type], count)
        elif tensor.data_type in TYPES and len(tensor.raw_data) == count * np.dtype(TYPES[tensor.data_type][0]).itemsize:
            values = np.frombuffer(tensor.raw_data, TYPES[tensor.data_type][0])
        else:
            return None
        constant = Constant(tensor, table(values, tensor.dims), True)
    elif tensor.data_type in TYPES and len(stored := getattr(tensor, TYPES[tensor.data_type][1])) == count:
        kind = TYPES[tensor.data_type][0]
        if count * np.dtype(kind).itemsize < LEAST:
            return None
        constant = Constant(tensor, table(np.array(stored).astype(kind), tensor.dims), False)
    else:
        return None
    return constant if same(constant) else None


def same(constant: Constant) -> bool:
    """Whether the tensor is written again as it was."""
    made = onnx.TensorProto()
    made.CopyFrom(constant.tensor)
    clear(made)
    fill(made, constant.values, constant.raw)
    return made.SerializeToString(deterministic=True) == constant.tensor.SerializeToString(deterministic=True)


def clear(tensor: onnx.TensorProto) -> None:
    """Take the values out."""
    for field in ("raw_data", "float_data", "double_data", "int32_data", "int64_data"):
        tensor.ClearField(field)


def fill(tensor: onnx.TensorProto, values: np.ndarray, raw: bool) -> None:
    """Put values in that :func:`clear` took out."""
    if tensor.data_type in NARROW:
        tensor.raw_data = narrow(values.reshape(-1), NARROW[tensor.data_type])
    elif raw:
        tensor.raw_data = np.ascontiguousarray(values).tobytes()
    else:
        getattr(tensor, TYPES[tensor.data_type][1]).extend(values.reshape(-1).tolist())


def dtype_of(tensor: onnx.TensorProto) -> np.dtype:
    """What :func:`fill` wants for a tensor. Raises KeyError for types that are never taken out."""
    return np.dtype("u1") if tensor.data_type in NARROW else np.dtype(TYPES[tensor.data_type][0])


def table(values: np.ndarray, dims: list[int]) -> np.ndarray:
    """(first axis, all others)."""
    return values.reshape(shape_of(dims))


def shape_of(dims: list[int]) -> tuple[int, int]:
    """(first axis, product of the others); one row for less than two axes."""
    if len(dims) < 2:
        return 1, int(np.prod(dims)) if dims else 1
    return int(dims[0]), int(np.prod(dims[1:]))


def widen(data: bytes, bits: int, count: int) -> np.ndarray:
    """Values of 4 or 2 bits, the low ones of a byte first, as bytes."""
    packed = np.frombuffer(data, np.uint8)
    places = np.arange(0, 8, bits, dtype=np.uint8)
    return ((packed[:, None] >> places) & (2**bits - 1)).reshape(-1)[:count]


def narrow(values: np.ndarray, bits: int) -> bytes:
    """The inverse of :func:`widen`."""
    per = 8 // bits
    filled = np.pad(values.astype(np.uint8), (0, -len(values) % per)).reshape(-1, per)
    return np.bitwise_or.reduce(filled << np.arange(0, 8, bits, dtype=np.uint8), axis=1).astype(np.uint8).tobytes()


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initialisers and constant attributes of the graph, its subgraphs and functions."""
    yield from of_graph(model.graph)
    for function in model.functions:
        yield from of_nodes(function.node)


def of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    yield from of_nodes(graph.node)


def of_nodes(nodes: list[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor that nodes hold as an attribute, those of graphs inside them too."""
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from of_graph(graph)
