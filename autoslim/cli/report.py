"""``autoslim report``: write all files of a finished or running study again."""

from pathlib import Path
from typing import Annotated

import typer


def add(app: typer.Typer) -> None:
    app.command("report", help="Write the tables, figures and page of a study again. Example: autoslim report reports/digits")(report)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a search.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write; default: the same folder.")] = None,
    storage: Annotated[
        str | None, typer.Option("--storage", envvar="OPTUNA_STORAGE", help="The storage, if it is not the folder's journal.")
    ] = None,
    study_name: Annotated[str | None, typer.Option("--study-name", help="The study, if the storage holds several.")] = None,
) -> int:
    from autoslim import report as writer
    from autoslim.study import Study

    study = Study.read(folder, study_name, storage)
    summary = writer.write(study, out or folder)
    typer.echo(writer.answer(summary, writer.front_rows(study), writer.context_of(study)))
    typer.echo(f"report: {(out or folder) / 'report.html'}")
    return 0
