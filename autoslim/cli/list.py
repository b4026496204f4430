"""``autoslim list``: the members of each door, and the shipped spaces and studies."""

from typing import Annotated

import typer

from autoslim.cli import _out


def add(app: typer.Typer) -> None:
    app.command(
        "list",
        help="List techniques, criteria, rankings, coders, runtimes, strategies, executors, charts, checks, spaces or studies. Example: autoslim list runtimes",
    )(show)


def show(
    kind: Annotated[
        str,
        typer.Argument(help="techniques, criteria, rankings, coders, runtimes, strategies, executors, charts, checks, spaces or studies"),
    ],
) -> int:
    """Print the members of a door, one a line with its summary; exit status 0."""
    from autoslim import plugins, yamlfile
    from autoslim.errors import UserError

    files = {"spaces": "search_spaces", "studies": "studies"}
    if kind in plugins.DOORS:
        rows = [(name, plugins.summary(kind, name)) for name in plugins.names(kind)]
    elif kind in files:
        rows = [
            (name, path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")) for name, path in yamlfile.shipped(files[kind]).items()
        ]
    else:
        raise UserError(f"list: got {kind!r}, allowed: {', '.join((*plugins.DOORS, *files))}")
    for name, text in rows:
        _out.say(f"{name:<16} {text}")
        if kind == "runtimes":
            _out.say(f"{'':<16} {widths(name)}")
    return 0


def widths(name: str) -> str:
    """Which widths a runtime stores and which it computes with, and what makes its files faster."""
    from autoslim import formats, plugins
    from autoslim.errors import UserError

    try:
        runtime = plugins.find("runtimes", name)
    except UserError as error:
        return str(error)
    if name == "cmd":
        return "stores what onnxruntime_cpu does; what the device computes with and accelerates is not known here"
    faster = ", ".join("ranges found at every run" if one == formats.DYNAMIC else str(one) for one in runtime.accelerates["bits"])
    widths = {side: {formats.NAMES[value][side] for value in runtime.supports["bits"] if value in formats.NAMES} for side in (0, 1)}
    kernels = (widths[1] - {16}) | (
        {16} if "bf16" in runtime.accelerates["bits"] else set()
    )  # activations of 16 are rounded, and computed in 32
    stored, computed = (", ".join(map(str, sorted(told))) for told in (widths[0], kernels))
    return f"stores {stored} bits, computes with {computed}; faster with less work" + (f" and with bits {faster}" if faster else "")
