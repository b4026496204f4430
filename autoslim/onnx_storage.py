"""Narrow weights in an ONNX file under float kernels: stored as integers or half floats, widened once when the file is opened.

A Cast and a Mul on constants are folded by ONNX Runtime at load, so that the kernels, and their speed, are those of the float
file; a DequantizeLinear would run at every inference (1.3 to 1.5 times slower, measured on convolutions).
"""

import numpy as np
import onnx

from autoslim.formats import BLOCK, TABLE_BLOCK, block_of
from autoslim.onnx_graph import Graph
from autoslim.onnx_qdq import integers
from autoslim.rounding import nearest, scales_of, settled, spread

HALF_MAX = float(np.finfo(np.float16).max)


__all__ = ["BLOCK", "block_of", "blocks", "half_steps", "half_table", "halves", "narrow_table", "table", "whole"]


def half_type(brain: bool) -> np.dtype:
    """The 16-bit floats: IEEE's, or bfloat16, which has the range of 32 bits and 8 bits of precision."""
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16 if brain else np.float16)


def halves(graph: Graph, name: str, node: onnx.NodeProto, brain: bool = False) -> str:
    """Store a constant as 16-bit floats; every reader gets it back in 32. Returns why not, "" if done."""
    value = graph.array(name)
    if not brain and np.abs(value).max(initial=0.0) > HALF_MAX:
        return f"holds values beyond {HALF_MAX:g}, the greatest 16-bit float"
    narrow = graph.constant(f"{name}_half", value.astype(half_type(brain)))
    wide = graph.node("Cast", [narrow], [f"{name}_widened"], f"{name}_widen", node, to=onnx.TensorProto.FLOAT)
    graph.redirect(graph.readers[name], name, wide)
    return ""


def whole(
    graph: Graph, name: str, node: onnx.NodeProto, integer: np.ndarray, steps: np.ndarray, bits: int, turned: bool, wide: bool
) -> None:
    """Store a weight as ``integer`` (outputs, inputs) with ``steps`` (outputs, blocks), kept in 16 bits or, if ``wide``, in 32; every
    reader gets back the float weight in its own shape. ``turned``: it lies in the graph as (inputs, outputs)."""
    outputs, inputs = integer.shape
    blocks = steps.shape[1]
    if wide:
        wide_steps = graph.constant(f"{name}_step", steps.astype(np.float32).reshape(outputs, blocks, 1))
    else:
        parts = graph.constant(f"{name}_step", half(steps).reshape(outputs, blocks, 1))
        wide_steps = graph.node("Cast", [parts], [f"{name}_step_widened"], f"{name}_step_widen", node, to=onnx.TensorProto.FLOAT)
    narrow = integers(graph, name, integer.reshape(outputs, blocks, inputs // blocks), bits, node)
    wide = graph.node("Cast", [narrow], [f"{name}_float"], f"{name}_to_float", node, to=onnx.TensorProto.FLOAT)
    scaled = graph.node("Mul", [wide, wide_steps], [f"{name}_scaled"], f"{name}_scale", node)
    shape = (outputs, inputs) if turned else tuple(graph.constants[name].dims)
    target = graph.constant(f"{name}_shape", np.array(shape, np.int64))
    back = graph.node("Reshape", [scaled, target], [f"{name}_shaped"], f"{name}_reshape", node)
    if turned:
        back = graph.node("Transpose", [back], [f"{name}_turned"], f"{name}_transpose", node, perm=[1, 0])
    graph.redirect(graph.readers[name], name, back)


def half(steps: np.ndarray) -> np.ndarray:
    """Steps as 16-bit floats."""
    return steps.astype(np.float16)


def half_steps(steps: np.ndarray) -> np.ndarray:
    """Steps that 16 bits hold exactly, so that weights are rounded with what the file holds."""
    return settled(np.where(np.abs(steps) < 6e-8, 6e-8, half(steps).astype(np.float64)))


def blocks(graph: Graph, node: onnx.NodeProto, integer: np.ndarray, steps: np.ndarray, name: str) -> None:
    """Let a MatMul or Gemm multiply four-bit weights (outputs, inputs) with bytes: ONNX Runtime's MatMulNBits, whose inputs become
    bytes block by block as they come. Made for few rows: with many it is slower than float."""
    outputs, inputs = integer.shape
    unsigned = (integer.astype(np.int16) + 8).astype(np.uint8)
    packed = (unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)).reshape(outputs, inputs // BLOCK, BLOCK // 2)
    weight = graph.constant(f"{name}_quantized", packed)
    scale = graph.constant(f"{name}_scale", steps.astype(np.float32).reshape(-1))
    bias = [graph.constant(f"{node.input[2]}_row", graph.array(node.input[2]).reshape(-1))] if len(node.input) > 2 else []
    inputs_of = [node.input[0], weight, scale, *(["", "", *bias] if bias else [])]
    told = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    graph.node("MatMulNBits", inputs_of, list(node.output), node.name, node, domain="com.microsoft", **told)
    graph.model.graph.node.remove(node)
    graph.need_domain("com.microsoft", 1)


def table(graph: Graph, node: onnx.NodeProto, name: str, bits: int = 8) -> np.ndarray:
    """Store an embedding's table (entries, width) as integers with a step per column; only the rows that are looked up are widened. Returns
    the table as it will be read.

    Gather, Cast, Mul: widening before the Gather would take the whole table at every inference, and ONNX Runtime moves a
    DequantizeLinear on to later nodes as a pair that makes bytes again.
    """
    value = graph.array(name)
    steps = scales_of(value.T, bits, len(value)).astype(np.float32)
    whole = nearest(value.T, steps, bits).T
    stored = graph.constant(f"{name}_quantized", whole)
    steps = steps[:, 0]
    scale = graph.constant(f"{name}_scale", steps)
    found = node.output[0]
    node.input[0], node.output[0] = stored, f"{found}_row"
    wide = graph.node("Cast", [f"{found}_row"], [f"{found}_widened"], f"{node.name}_widen", node, to=onnx.TensorProto.FLOAT)
    graph.node("Mul", [wide, scale], [found], f"{node.name}_scale", node)
    return whole * steps


def narrow_table(graph: Graph, node: onnx.NodeProto, name: str, bits: int) -> np.ndarray:
    """Store an embedding's table with a step of 16 bits per row and block of columns: ONNX Runtime's GatherBlockQuantized, which gives rows
    in the type of the steps. Returns the table as it will be read."""
    value = graph.array(name)
    steps = half_steps(scales_of(value, bits, TABLE_BLOCK, signed=True))
    integer = nearest(value, steps, bits)
    unsigned = (integer.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    packed = unsigned if bits == 8 else unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)
    stored, scale = graph.constant(f"{name}_quantized", packed), graph.constant(f"{name}_scale", half(steps))
    told = {"bits": bits, "block_size": TABLE_BLOCK, "gather_axis": 0, "quantize_axis": 1}
    row = f"{node.output[0]}_half"
    graph.node("GatherBlockQuantized", [stored, node.input[1], scale], [row], node.name, node, domain="com.microsoft", **told)
    graph.node("Cast", [row], list(node.output), f"{node.name}_widen", node, to=onnx.TensorProto.FLOAT)
    graph.model.graph.node.remove(node)
    graph.need_domain("com.microsoft", 1)
    return half(integer * spread(steps, value.shape[1])).astype(np.float32)


def half_table(graph: Graph, node: onnx.NodeProto, name: str, brain: bool = False) -> None:
    """Store an embedding's table as 16-bit floats; only the rows that are looked up are widened."""
    stored = graph.constant(f"{name}_half", graph.array(name).astype(half_type(brain)))
    found = node.output[0]
    node.input[0], node.output[0] = stored, f"{found}_half"
    graph.node("Cast", [f"{found}_half"], [found], f"{node.name}_widen", node, to=onnx.TensorProto.FLOAT)
