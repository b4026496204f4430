"""``autoslim ablate``: what each family of techniques contributes, measured."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _flags, _out


def add(app: typer.Typer) -> None:
    app.command(
        "ablate",
        help="Measure the recommended point with one family of techniques taken out at a time, and write the report again. "
        "Example: autoslim ablate reports/digits",
    )(ablate)


def ablate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a finished search.")],
    point: Annotated[str | None, typer.Option("--point", help="Key of another verified point (or how it begins).")] = None,
    searches: Annotated[
        bool, typer.Option("--search", help="Also search again without each family, at as many evaluations. Takes as long as that.")
    ] = False,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="With --search: evaluations of each; default: the study's.")] = None,
    storage: _flags.Storage = None,
    study_name: _flags.StudyName = None,
) -> int:
    """Exit status 0 once the rows are measured and written, whatever they say."""
    from autoslim import ablating

    def say(text: str) -> None:
        print(f"autoslim: {text}", file=sys.stderr, flush=True)

    rows = ablating.ablate(folder, point, trials, search if searches else None, say, storage, study_name)
    for row in rows:
        _out.say(sentence(row))
    _out.say(f"report: {folder / 'report.html'}")
    return 0


def search(spec: Any, out: Path) -> Any:
    """One search as `autoslim search` runs it."""
    from autoslim import search as loop
    from autoslim.cli import _live
    from autoslim.cli.search import interrupt
    from autoslim.errors import AutoSlimError

    stop = loop.Stop()
    signal.signal(signal.SIGINT, lambda number, frame: interrupt(stop))
    print(f"autoslim: searching in {out}", file=sys.stderr, flush=True)
    found = loop.run(spec, out, _live.Silent(), stop, command=["autoslim", *sys.argv[1:]])
    if stop.reason == "interrupted":
        raise AutoSlimError("ablate: interrupted; the same command goes on with the searches where they stopped")
    return found


def sentence(row: dict[str, Any]) -> str:
    """One row in words."""
    name = f"without {row['without']}" if row["without"] else "whole recipe"
    if row["kind"] == "search":
        return f"search {name}: hypervolume {row['hypervolume']:.4f} after {row['evaluations']} evaluations, with it {row['hypervolume_whole']:.4f}"
    if row["end"] == "failed":
        return f"{name}: failed, {row['detail']}"
    return f"{name}: drop {row['drop_val']:+.4f} (validation), time ratio {row['latency_ratio']:.3f}, size ratio {row['size_ratio']:.3f}"
