"""``autoslim pack``: a shipped file, or the file of a recipe, in as few bytes as its weights need."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _flags, _out

MODEL, RECIPES = ".onnx", (".yaml", ".yml")


def add(app: typer.Typer) -> None:
    app.command(
        "pack",
        help="Store an .onnx file, or the file of a recipe, small; unpack gives it back. Example: autoslim pack model.onnx -o model.slim",
    )(pack)


def pack(
    source: Annotated[Path, typer.Argument(help="An .onnx file, or a recipe.yaml (then --task or --model says of which network).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The packed file to write.")],
    entropy: Annotated[bool, typer.Option(help="Code symbols by their frequencies where that is shorter.")] = True,
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    threads: _flags.Threads = None,
    max_samples: _flags.MaxSamples = None,
) -> int:
    """Write the packed file and print what it holds; exit status 0."""
    from autoslim import packed
    from autoslim.errors import UserError

    if not source.is_file():
        raise UserError(f"MODEL_OR_RECIPE: no file {str(source)!r}")
    if source.suffix not in (MODEL, *RECIPES):
        raise UserError(f"MODEL_OR_RECIPE: got {str(source)!r}, allowed: a name ending in {', '.join((MODEL, *RECIPES))}")
    if source.resolve() == out.resolve():
        raise UserError(f"--out: {str(out)!r} is the file to pack; give another name")
    with tempfile.TemporaryDirectory() as folder:
        path = source
        if source.suffix in RECIPES:
            path = Path(folder) / f"model{MODEL}"
            flags = {"part": part, "threads": threads, "max_samples": max_samples, **_flags.task_of(task, task_arg, model, data)}
            applied(source, flags, path)
        made, size = packed.pack(read(path), entropy), path.stat().st_size
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(made.content)
    _out.say(
        f"{out}: {len(made.content)} bytes ({len(made.content) / size:.3f} of {size}): weights {made.payload}, network {made.graph}, "
        f"container {made.container} ({made.container / len(made.content):.2%})"
    )
    return 0


def read(path: Path) -> Any:
    """The model of an .onnx file. Raises UserError for what is no ONNX file."""
    import onnx

    from autoslim.errors import UserError

    try:
        return onnx.load(str(path))
    except Exception as error:  # protobuf's errors share no public base class
        raise UserError(f"{path}: not an ONNX file ({' '.join(str(error).split())[:120]})") from error


def applied(recipe: Path, flags: dict[str, Any], path: Path) -> None:
    """Make the file of a recipe."""
    from autoslim.application import apply
    from autoslim.spec import load_study

    made = apply(_flags.recipe_of(recipe), load_study(None, flags), path)
    for note in made["notes"]:
        _out.say(f"note: {note}")
    _out.say(f"{made['metric_name']} {made['metric']:.4f} on validation data (untouched {made['untouched_metric']:.4f})")
