"""``autoslim compare``: several studies on one page."""

import json
from pathlib import Path
from typing import Annotated

import typer


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
) -> int:
    from autoslim.errors import UserError
    from autoslim.reporting import comparison, comparison_page
    from autoslim.reporting.context import Material
    from autoslim.study import Study

    if form not in ("text", "md", "json"):
        raise UserError(f"--format: got {form!r}, allowed: text, md, json")
    found = comparison.sides([(name, Material(Study.read(folder))) for name, folder in named(folders)])
    told = comparison.compare(found)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(comparison_page.render(found, told), encoding="utf-8")
    if form == "json":
        typer.echo(json.dumps(told, indent=1, sort_keys=True))
    elif form == "md":
        typer.echo(comparison_page.markdown(told), nl=False)
    else:
        typer.echo(comparison.verdict_words(told))
        typer.echo(f"page: {out}")
    return 0


def named(folders: list[Path]) -> list[tuple[str, Path]]:
    """Each folder with the shortest end of its path that no other one shares."""
    places = [folder.resolve() for folder in folders]
    for depth in range(1, 10):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            return list(zip(names, folders, strict=True))
    return [(f"{index + 1}: {folder}", folder) for index, folder in enumerate(folders)]
