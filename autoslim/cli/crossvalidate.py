"""``autoslim crossvalidate``: the best points made again on parts of the training data, judged on the rest."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoslim.cli import _flags, _out


def add(app: typer.Typer) -> None:
    app.command(
        "crossvalidate",
        help="Make the cheapest points within the limits again on folds of the training data, judge each on the fold it has not seen, and name "
        "the best. Takes as long as their recovery, once per fold. Example: autoslim crossvalidate reports/digits",
    )(crossvalidate)


def crossvalidate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of a finished search.")],
    folds: Annotated[int, typer.Option("--folds", min=2, help="Parts of the training data.")] = 3,
    best: Annotated[int, typer.Option("--best", min=1, help="Most points, the cheapest within the limits.")] = 10,
    storage: _flags.Storage = None,
    study_name: _flags.StudyName = None,
) -> int:
    """Print the points over the folds and the one that is named; exit status 0."""
    from autoslim import crossvalidating

    def say(text: str) -> None:
        print(f"autoslim: {text}", file=sys.stderr, flush=True)

    rows = crossvalidating.crossvalidate(folder, folds, best, say, storage, study_name)
    for row in sorted(rows, key=lambda row: row["cost"]):
        _out.say(
            f"{'*' if row['chosen'] else ' '} {row['key'][:8]}  folds {row['metric_mean']:.4f} +- {row['metric_error']:.4f}, gap "
            f"{row['gap_mean']:.4f}, cost {row['cost']:.4f}: {row['summary']}"
        )
    _out.say("* the cheapest within one standard error of the best mean; the original was trained on these samples: ranks, not accuracies")
    return 0
