"""Which module of the model a node of an exported graph came from."""

import ast
import re
from collections.abc import Mapping

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
#: in the names of nodes inside a Scan, whose time is that of the Scan
INNER = "__step__"
#: what ONNX Runtime appends to a node's name when it fuses it, changes its layout or makes it an integer kernel
ENDINGS = re.compile(r"(_nchwc|_quant|_token_\d+|/\w+/?)$")
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def scopes(node: onnx.NodeProto) -> list[str]:
    """Module names that the exporter noted for a node, outermost first."""
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            return [scope for scope in ast.literal_eval(entry.value)[:-1] if scope]
    return []


def layer(node: onnx.NodeProto) -> str:
    """The layer by the name of the weight it reads, else the innermost module noted; "" where nothing is known."""
    for name in node.input:
        base = name.removesuffix("_quantized").removesuffix("_DequantizeLinear_Output")
        if base.endswith(".weight"):
            return base.removesuffix(".weight")
    found = scopes(node)
    return found[-1] if found else ""


def owners(model: onnx.ModelProto) -> dict[str, str]:
    """{node or tensor: layer}. A tensor belongs to the weighted node behind it, since ONNX Runtime fuses what follows a
    convolution into it and names the kernel after the last output."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    constants = {item.name for item in model.graph.initializer}
    found: dict[str, str] = {}
    for node in model.graph.node:
        source = node
        while source.op_type not in WEIGHTED:
            reads = [name for name in source.input if name in made_by and name not in constants]
            if source.op_type not in ("Relu", "Clip", "HardSwish", "Add", "QuantizeLinear", "DequantizeLinear") or not reads:
                break
            source = made_by[reads[0]]
        name = layer(source)
        found[node.name] = name
        found.update(dict.fromkeys(node.output, name))
    return found


def place(owners: Mapping[str, str], kernel: str) -> str:
    """The layer of a kernel of the optimised graph, by the node's name that is left in its own; the kernel's name if that says nothing."""
    name = kernel
    while not owners.get(name):
        shorter = ENDINGS.sub("", name)
        if shorter == name:
            return kernel
        name = shorter
    return owners[name]
