"""Why a file is as fast as it is: kernels in float that were meant as integers, conversions, widths that miss the kernels' steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoslim.formats import FLOAT, GRU_FROM, parse

#: kernels of weighted layers that compute in float
FLOATS = ("Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU", "RNN")
INTEGERS = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "MatMulNBits",
    "GatherBlockQuantized",
)
CONVERSIONS = {
    "QuantizeLinear": "a float becomes an integer",
    "DequantizeLinear": "an integer becomes a float",
    "DynamicQuantizeLinear": "a float becomes bytes, its range found anew each time",
    "Cast": "another number format",
    "ReorderInput": "another order of channels",
    "ReorderOutput": "another order of channels",
}
#: findings of layers that a card tells
MOST_TOLD = 8
#: channels that the kernels work on at once
STEP = 16
FIXES = {
    "Conv": "a convolution is an integer kernel only where its output may become bytes too; give what follows it 8 bits as well",
    "GRU": f"integer products pay from {GRU_FROM} hidden units on: below, use w8, which makes the file smaller, or an LSTM",
    "RNN": "ONNX Runtime has no integer kernel for it: use w8, which makes the file smaller, or an LSTM",
}


@dataclass(frozen=True)
class Finding:
    """One thing that costs time. ``kind``: float, conversion, width or slower; ``ms`` per run, None where it cannot be told apart."""

    kind: str
    layer: str
    kernel: str
    ms: float | None
    what: str
    fix: str


def explain(
    rows: Sequence[Mapping[str, Any]],
    meant: Mapping[str, Any],
    widths: Mapping[str, Sequence[int]],
    floats: Sequence[Mapping[str, Any]] = (),
    fell: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """{"ms", "meant": layers meant as integers, "integer": of those with an integer kernel, "findings"}: the costliest first.

    ``rows``: {"layer", "op", "ms"} per kernel of the optimised graph; ``meant``: {layer: bits}; ``widths``: {layer: (outputs,
    inputs)}; ``floats``: rows of the file to compare with, layer by layer; ``fell``: {layer: relative error that its outputs would have had as
    integers, why it was left in float}.
    """
    wanted = {layer for layer, value in meant.items() if parse(value).integer}
    run = {layer for layer in wanted if any(inside(row["layer"], layer) and row["op"] in (*INTEGERS, "Gather") for row in rows)}
    words = {layer for layer, value in meant.items() if parse(value).activations == 16}
    found = [
        *rounded(rows, words),
        *in_float(rows, wanted, fell or {}),
        *conversions(rows),
        *narrow(rows, widths),
        *slower(rows, floats, meant),
    ]
    return {
        "ms": sum(row["ms"] for row in rows),
        "meant": sorted(wanted),
        "integer": sorted(run),
        "findings": [asdict(one) for one in sorted(found, key=lambda one: -(one.ms or 0.0))],
    }


def told(explained: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of :func:`explain`: how many layers were meant as integers and how many are, and those that run in float or slower
    than in the other file, the costliest first."""
    layers = [one for one in explained["findings"] if one["kind"] in ("float", "slower")]
    return {"meant": len(explained["meant"]), "integer": len(explained["integer"]), "layers": layers[:MOST_TOLD]}


def inside(place: str, layer: str) -> bool:
    return place == layer or place.startswith(f"{layer}.")


def in_float(rows: Sequence[Mapping[str, Any]], wanted: Iterable[str], fell: Mapping[str, float]) -> list[Finding]:
    """Kernels that compute in float for layers that were meant as integers."""
    found = []
    for row in rows:
        layer = next((name for name in wanted if inside(row["layer"], name)), None)
        if layer is not None and row["op"] in FLOATS:
            kind = "Conv" if "Conv" in row["op"] else row["op"]
            fix = FIXES.get(kind, "look at the notes of the export: a weight that is computed in the graph cannot be stored as bytes")
            what = "meant as integer, runs in float"
            if layer in fell:
                what += f": as integers its outputs would differ by {fell[layer]:.0%} of their energy"
                fix = "leave it so, or insist with the format's fallback: never"
            found.append(Finding("float", layer, row["op"], row["ms"], what, fix))
    return found


def rounded(rows: Sequence[Mapping[str, Any]], words: Iterable[str]) -> list[Finding]:
    """Kernels of layers that were meant to compute with 16-bit integers: there are none in ONNX Runtime."""
    what = "meant with 16-bit activations, which are rounded to them and computed in float: slower than float, for devices that have such kernels"
    fix = "use 8 for integer kernels, w16 or 16 for bytes alone"
    named = [(row, next((name for name in words if inside(row["layer"], name)), None)) for row in rows if row["op"] in FLOATS]
    return [Finding("float", layer, row["op"], row["ms"], what, fix) for row, layer in named if layer is not None]


def conversions(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Kernels that only change the form of numbers."""
    fix = "give the layers on both sides the same bits, so that the numbers pass as they are"
    return [
        Finding("conversion", row["layer"], row["op"], row["ms"], CONVERSIONS[row["op"]], fix) for row in rows if row["op"] in CONVERSIONS
    ]


def narrow(rows: Sequence[Mapping[str, Any]], widths: Mapping[str, Sequence[int]]) -> list[Finding]:
    """Layers whose channels are no multiple of what the kernels work on at once. The cost told is the part of the layer's time that
    the missing channels are of the next multiple."""
    found = []
    for layer, (outputs, inputs) in widths.items():
        spent = sum(row["ms"] for row in rows if row["layer"] == layer and row["op"] in (*FLOATS, *INTEGERS))
        missed = [(word, size) for word, size in (("out", outputs), ("in", inputs)) if size > 4 and size % STEP]
        if spent and missed:
            lost = 1.0
            for _, size in missed:
                lost *= size / (-(-size // STEP) * STEP)
            told = " and ".join(f"{size} channels {word}" for word, size in missed)
            fix = f"keep multiples of {STEP}: channels with options {{round_to: {STEP}}}"
            found.append(
                Finding("width", layer, "", spent * (1 - lost), f"{told}: the kernel works on {STEP} at once (cost estimated)", fix)
            )
    return found


def slower(rows: Sequence[Mapping[str, Any]], floats: Sequence[Mapping[str, Any]], meant: Mapping[str, Any]) -> list[Finding]:
    """Layers with bits that take longer than in the other file; the cost is the difference."""
    found = []
    for layer in meant:
        now, before = (sum(row["ms"] for row in part if inside(row["layer"], layer)) for part in (rows, floats))
        if before and now > before * 1.1:
            what = f"{now:.4f} ms, {before:.4f} ms in the other file"
            fix = f"give it {FLOAT}, or a format with float kernels (16, w8, w4) if its bytes matter"
            found.append(Finding("slower", layer, "", now - before, what, fix))
    return found
