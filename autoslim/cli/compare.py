"""``autoslim compare``: several studies on one page."""

import json
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out
from autoslim.places import writable_file


def add(app: typer.Typer) -> None:
    app.command(
        "compare",
        help="Several finished studies side by side: joint front, hypervolumes with intervals, who wins in which budget, what differed. "
        "Example: autoslim compare reports/a reports/b",
    )(compare)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of two or more searches.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("compare.html"),
    form: Annotated[str, typer.Option("--format", "-f", help="What is printed: text, md or json.")] = "text",
    study_name: Annotated[
        list[str] | None, typer.Option("--study-name", help="The study, if a storage holds several; once for all, or once per DIR.")
    ] = None,
    storage: _flags.Storage = None,
) -> int:
    """Write the page and print the verdict; exit status 0. Raises UserError, before anything is written, for studies of unlike things."""
    from autoslim import reading
    from autoslim.errors import UserError
    from autoslim.reporting import comparison, comparison_page
    from autoslim.reporting.context import Material

    if form not in ("text", "md", "json"):
        raise UserError(f"--format: got {form!r}, allowed: text, md, json")
    studies = of_each(study_name or [], folders, storage)
    labels = named([folder / study if study else folder for folder, study in zip(folders, studies, strict=True)])
    read = [Material(reading.read(folder, study, storage)) for folder, study in zip(folders, studies, strict=True)]
    found = comparison.sides(list(zip(labels, read, strict=True)))
    writable_file(out, "--out")
    told = comparison.compare(found)
    out.write_text(comparison_page.render(found, told), encoding="utf-8")
    if form == "json":
        _out.say(json.dumps(told, indent=1, sort_keys=True))
    elif form == "md":
        _out.say(comparison_page.markdown(told), nl=False)
    else:
        _out.say(comparison.verdict_words(told))
        _out.say(f"page: {out}")
    return 0


def of_each(names: list[str], folders: list[Path], storage: str | None) -> list[str | None]:
    """The study's name for each folder; None: the storage's only or first one.
    Raises UserError where they are not as many as the folders."""
    from autoslim.errors import UserError

    if len(names) not in (0, 1, len(folders)):
        raise UserError(
            f"--study-name: got {len(names)} names for {len(folders)} folders, allowed: one for all, or one per DIR in their order"
        )
    if storage is not None and len(names) != len(folders):
        raise UserError(
            f"--storage: holds the studies of all {len(folders)} folders; say which with one --study-name per DIR, in their order"
        )
    return [*names] if len(names) == len(folders) else (names or [None]) * len(folders)


def named(places: list[Path]) -> list[str]:
    """For each place the shortest end of its path that no other one shares."""
    whole = [place.resolve() for place in places]
    for depth in range(1, 10):
        names = ["/".join(place.parts[-depth:]) for place in whole]
        if len(set(names)) == len(names):
            return names
    return [f"{index + 1}: {place}" for index, place in enumerate(places)]
