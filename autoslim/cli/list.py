"""``autoslim list``: the members of each door, and the shipped spaces and studies."""

from typing import Annotated

import typer


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
        typer.echo(f"{name:<16} {text}")
    return 0
