"""``autoslim report``: write all files of a finished or running study again."""

from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags


def add(app: typer.Typer) -> None:
    app.command("report", help="Write the tables, figures and page of a study again. Example: autoslim report reports/digits")(report)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a search.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; default: the same folder.")] = None,
    form: Annotated[
        str, typer.Option("--format", "-f", help="files (all of them) or md: print Markdown for a pull request, write nothing.")
    ] = "files",
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="Also send it to mlflow, tensorboard or dashboard; NAME or NAME=PLACE. May be repeated."),
    ] = None,
    storage: _flags.Storage = None,
    study_name: _flags.StudyName = None,
) -> int:
    from autoslim import report as writer
    from autoslim.errors import UserError
    from autoslim.study import Study

    if form not in ("files", "md"):
        raise UserError(f"--format: got {form!r}, allowed: files, md")
    material = writer.Material(Study.read(folder, study_name, storage))
    if form == "md":
        from autoslim.reporting import markdown

        typer.echo(markdown.render(material, writer.summarise(material)), nl=False)
        return 0
    summary = writer.write_material(material, out or folder)
    typer.echo(writer.answer(summary, material.rows, material.context))
    typer.echo(f"report: {(out or folder) / 'report.html'}")
    for wish in to or []:
        from autoslim.reporting.exporting import export

        kind, _, place = wish.partition("=")
        typer.echo(export(kind, material, out or folder, place))
    return 0
