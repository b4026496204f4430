"""The packed file: a shipped ONNX model in as few bytes as its weights need, which comes back bit for bit.

A safetensors file with three arrays of bytes: ``graph``, the model without its constants; ``data``, the streams of the constants one
after the other; ``index``, which coder (coders/) made which streams. The header names the format, its version and the digest of the
model. Nothing in it is ever executed: no pickle.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from autoslim import onnx_constants, plugins, streams
from autoslim.errors import UserError
from autoslim.streams import Parts

FORMAT, VERSION, DIGEST, LEVEL = "autoslim.packed", 1, "blake2b", 19
ARRAYS = ("graph", "index", "data")


@dataclass(frozen=True)
class Packed:
    """A packed file in memory. ``payload``: bytes of the weights; ``graph``: of the description of the network; the rest of ``content``
    is the container. ``coders``: {name of a tensor: how it was stored}."""

    content: bytes
    payload: int
    graph: int
    coders: dict[str, str]

    @property
    def container(self) -> int:
        """Bytes that are neither weights nor the network's description: header and index."""
        return len(self.content) - self.payload - self.graph


def pack(model: onnx.ModelProto, entropy: bool = True) -> Packed:
    """The model as a packed file. ``entropy`` False: symbols at fixed widths only, so that the payload follows from counts."""
    from safetensors.numpy import save

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    known: dict[tuple, int] = {}
    index: list[Any] = []
    data: list[bytes] = []
    used: dict[str, str] = {}
    for place, tensor in enumerate(onnx_constants.tensors(bare)):
        constant = onnx_constants.read(tensor)
        if constant is None:
            continue
        key = tensor.data_type, constant.values.tobytes(), constant.values.shape
        entry: list[Any]
        if key in known:
            entry = ["=", known[key]]
        else:
            known[key] = len(index)
            entry, pieces = encode(constant.values, len(tensor.dims) == 2, entropy)
            data += pieces
        used[tensor.name] = entry[0]
        index.append([place, int(constant.raw), *entry])
        onnx_constants.clear(tensor)
    graph = compressor().compress(bare.SerializeToString(deterministic=True))
    arrays = {
        "graph": graph,
        "index": compressor().compress(json.dumps(index, separators=(",", ":")).encode()),
        "data": b"".join(data),
    }
    header = {FORMAT: str(VERSION), DIGEST: digest(model)}
    content = save({name: np.frombuffer(part, np.uint8) for name, part in arrays.items()}, metadata=header)
    return Packed(content, len(arrays["data"]), len(graph), used)


def unpack(content: bytes, source: str = "packed file") -> onnx.ModelProto:
    """The model that was packed. Raises UserError for a damaged file or one of a newer version."""
    arrays, header = opened(content, source)
    try:
        model = onnx.ModelProto.FromString(decompress(arrays["graph"]))
        index, data = json.loads(decompress(arrays["index"])), memoryview(arrays["data"])
        all_tensors = list(onnx_constants.tensors(model))
        made: list[np.ndarray] = []
        for place, raw, *entry in index:
            tensor = all_tensors[place]
            if entry[0] == "=":
                values = made[entry[1]]
            else:
                values, data = decode(entry, data, onnx_constants.shape_of(tensor.dims), onnx_constants.dtype_of(tensor))
            made.append(values)
            onnx_constants.fill(tensor, values, bool(raw))
        whole = not len(data) and digest(model) == header.get(DIGEST)
    except UserError:
        raise
    except Exception as error:  # whatever nonsense the bytes hold, they are not what was written
        raise UserError(
            f"{source}: damaged, its content does not decode ({' '.join(str(error).split())[:120]}); pack the model again"
        ) from error
    if not whole:
        raise UserError(f"{source}: damaged, what it holds is not the model that was packed; pack the model again")
    return model


def packed_bytes(path: Path) -> int:
    """Bytes that a shipped ONNX file needs as a packed file: the size that a report may call packed."""
    return len(pack(onnx.load(str(path))).content)


def encode(values: np.ndarray, turn: bool, entropy: bool) -> tuple[list[Any], list[bytes]]:
    """(entry of the index, bytes of the streams) by the coder that needs least. ``turn``: columns may be taken for outputs too."""
    name, turned, parts = min(candidates(values, turn), key=lambda found: cost(found[2], entropy))
    coded = [(stream, *streams.encode(stream, entropy)) for stream in parts.streams]
    table = [[len(stream.symbols), stream.width, how, len(piece)] for stream, how, piece in coded]
    return [name, turned, list(parts.facts), table], [piece for *_, piece in coded]


def candidates(values: np.ndarray, turn: bool) -> Iterator[tuple[str, int, Parts]]:
    """(coder, whether turned, parts) of every coder that takes the values, those with cheap indices first.

    Zeros of a float tensor may be negative, all in a row alike (a folded batch norm does that): their signs are one more stream.
    """
    for turned, table in enumerate([values, np.ascontiguousarray(values.T)] if turn else [values]):
        cleaned, signs = unsigned(table)
        for name in plugins.names("coders"):
            parts = plugins.load("coders", name).split(cleaned)
            if parts is not None:
                extra = () if signs is None else (streams.Stream(signs, 1),)
                yield name, turned + 2 * len(extra), Parts(parts.facts, (*parts.streams, *extra))
        if table.dtype.kind != "f":
            return


def unsigned(table: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(table without negative zeros, 1 for each row that had them); (table, None) where there are none or rows mix them."""
    if table.dtype.kind != "f":
        return table, None
    zero, negative = table == 0, np.signbit(table)
    marked = (zero & negative).any(1)
    if not marked.any() or (zero & ~negative)[marked].any():
        return table, None
    return np.where(zero, table.dtype.type(0), table), marked.astype(np.uint32)


def cost(parts: Parts, entropy: bool) -> float:
    """Bytes of the streams, and of what the index says of them."""
    found = sum(min(stream.fixed_bytes, streams.estimate(stream)) if entropy else stream.fixed_bytes for stream in parts.streams)
    return found + 4 * len(parts.streams)


def decode(entry: Sequence[Any], data: memoryview, shape: tuple[int, int], dtype: np.dtype) -> tuple[np.ndarray, memoryview]:
    """(values, the rest of the data)."""
    name, turned, facts, table = entry
    found = []
    for count, width, how, size in table:
        if size > len(data):
            raise ValueError("the data end too soon")
        found.append(streams.decode(how, bytes(data[:size]), count, width))
        data = data[size:]
    signs = found.pop() if turned & 2 else None
    values = plugins.load("coders", name).join(facts, found, shape[::-1] if turned & 1 else shape, dtype)
    if signs is not None:
        values = np.where((values == 0) & (signs[:, None] != 0), dtype.type(-0.0), values)
    return np.ascontiguousarray(values.T if turned & 1 else values), data


def opened(content: bytes, source: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """({array: bytes}, header) of a file of a version that is known."""
    import safetensors

    try:
        found = {name: bytes(told["data"]) for name, told in safetensors.deserialize(content)}
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except Exception as error:  # the library has no public base class of its errors in every version
        raise UserError(f"{source}: not a packed file ({' '.join(str(error).split())[:120]}); `autoslim pack` writes them") from error
    version = header.get(FORMAT)
    if version is None or not set(ARRAYS) <= set(found):
        raise UserError(f"{source}: not a packed file (its header has no {FORMAT!r}); `autoslim pack` writes them")
    if not version.isdecimal() or int(version) > VERSION:
        raise UserError(f"{source}: written in version {version!r} of the format, this AutoSlim reads up to {VERSION}; update it")
    return found, header


def digest(model: onnx.ModelProto) -> str:
    """Digest of the model's canonical bytes, 32 hexadecimal digits."""
    return hashlib.blake2b(model.SerializeToString(deterministic=True), digest_size=16).hexdigest()


def compressor() -> Any:
    return zstandard().ZstdCompressor(level=LEVEL, write_checksum=True)


def decompress(data: bytes) -> bytes:
    return zstandard().ZstdDecompressor().decompress(data)


def zstandard() -> Any:
    """The module zstandard. Raises UserError where it is not installed."""
    try:
        import zstandard
    except ModuleNotFoundError:
        raise UserError("packed files: need the package 'zstandard', which is not installed; pip install autoslim[pack]") from None
    return zstandard
