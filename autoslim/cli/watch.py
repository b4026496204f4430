"""``autoslim watch``: the report while the study runs."""

from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out


def add(app: typer.Typer) -> None:
    app.command(
        "watch", help="Serve the report of a running study to this machine; it updates itself. Example: autoslim watch reports/digits"
    )(watch)


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a search, running or finished.")],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8765,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in the default browser.")] = False,
    storage: _flags.Storage = None,
    study_name: _flags.StudyName = None,
) -> int:
    """Serve until Ctrl-C; exit status 0."""
    from autoslim import watching

    live = watching.Live(folder, study_name, storage)

    def ready(address: str) -> None:
        _out.say(f"watching {folder}: {address} (Ctrl-C ends)")
        if browser:
            import webbrowser

            webbrowser.open(address)

    try:
        watching.serve(live, port, ready)
    except KeyboardInterrupt:
        return 0
    return 0
