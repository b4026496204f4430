"""``autoslim report``: write all files of a finished or running study again."""

from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out
from autoslim.places import writable_folder


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
    """Write the files, or print Markdown; exit status 0. Nothing is evaluated."""
    from autoslim import reading
    from autoslim import report as writer
    from autoslim.errors import UserError
    from autoslim.reporting import exporting

    if form not in ("files", "md"):
        raise UserError(f"--format: got {form!r}, allowed: files, md")
    if form == "md" and (to or out):
        raise UserError(
            f"{'--to' if to else '--out'}: nothing is written with --format md, allowed: with --format files; leave one of them out"
        )
    wishes = [wish.partition("=") for wish in to or []]
    for kind, _, _ in wishes:
        exporting.check(kind)
    material = writer.Material(reading.read(folder, study_name, storage))
    if form == "md":
        from autoslim.reporting import markdown

        _out.say(markdown.render(material, writer.summarise(material)), nl=False)
        return 0
    target = writable_folder(out or folder, "--out" if out else "DIR")
    summary = writer.write_material(material, target)
    _out.say(writer.answer(summary, material.rows, material.context))
    _out.say(f"report: {target / 'report.html'}")
    for kind, _, place in wishes:
        _out.say(exporting.export(kind, material, exporting.Source(target, folder, storage), place))
    return 0
