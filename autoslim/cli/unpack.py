"""``autoslim unpack``: the file that was packed, bit for bit."""

from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _out


def add(app: typer.Typer) -> None:
    app.command("unpack", help="Write the .onnx file that a packed file holds. Example: autoslim unpack model.slim -o model.onnx")(unpack)


def unpack(
    source: Annotated[Path, typer.Argument(help="A file that autoslim pack wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
) -> int:
    """Write the .onnx file byte for byte; exit status 0."""
    from autoslim import packed
    from autoslim.errors import UserError

    if not source.is_file():
        raise UserError(f"FILE: no file {str(source)!r}")
    if out.suffix != ".onnx":
        raise UserError(f"--out: got {str(out)!r}, allowed: a name ending in .onnx")
    model = packed.unpack(source.read_bytes(), str(source))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(model.SerializeToString(deterministic=True))
    _out.say(f"{out}: {out.stat().st_size} bytes from {source.stat().st_size}, the same model bit for bit")
    return 0
