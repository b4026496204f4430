"""``autoslim apply``: recipe -> file, also on retrained weights."""

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from autoslim.cli import _flags, _out
from autoslim.places import writable_file


def add(app: typer.Typer) -> None:
    app.command(
        "apply", help="Make the file of a recipe from a task's model. Example: autoslim apply recipe.yaml --task task.py -o model.onnx"
    )(apply)


def apply(
    recipe: Annotated[Path, typer.Argument(help="A recipe.yaml that a search wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    task: _flags.Task = None,
    task_arg: _flags.TaskArg = None,
    model: _flags.Model = None,
    data: _flags.Data = None,
    part: _flags.Part = None,
    runtime: _flags.Runtime = None,
    threads: _flags.Threads = None,
    max_samples: _flags.MaxSamples = None,
    steps: Annotated[
        int, typer.Option("--train-steps", min=0, help="Distil so many steps more, over Ray, after the recipe's own recovery.")
    ] = 0,
    workers: Annotated[int, typer.Option("--train-workers", min=1, help="Workers that share each of these steps' batches.")] = 1,
    rate: Annotated[float, typer.Option("--train-lr", min=0.0, help="Learning rate of these steps.")] = 1e-3,
    sharded: Annotated[bool, typer.Option("--sharded", help="Spread weights and optimizer over the workers (FSDP).")] = False,
    address: _flags.Address = None,
) -> int:
    """Write the file; exit status 0. What the recipe cannot do to this model is a UserError."""
    from autoslim import spec
    from autoslim.errors import Untreatable, UserError

    plan = _flags.recipe_of(recipe)
    wanted = spec.load_study(
        None,
        {"runtime": runtime, "part": part, "threads": threads, "max_samples": max_samples, **_flags.task_of(task, task_arg, model, data)},
    )
    _flags.refuse_threads(wanted)
    writable_file(out, "--out")
    from autoslim.application import apply as make

    longer = trainer(plan, wanted, out, steps, workers, rate, sharded, address or "") if steps else None
    try:
        made = make(plan, wanted, out, longer)
    except Untreatable as error:
        raise UserError(f"RECIPE {recipe}: does not fit this network ({error}); give the task that it was made for") from None
    for note in made["notes"]:
        _out.say(f"note: {note}")
    _out.say(
        f"{out}: {made['metric_name']} {made['metric']:.4f} on validation data (untouched {made['untouched_metric']:.4f}), "
        f"{made['size_bytes'] / 1000:.0f} kB ({made['size_bytes'] / made['untouched_bytes']:.2f} of untouched)"
    )
    return 0


def trainer(plan: Any, wanted: Any, out: Path, steps: int, workers: int, rate: float, sharded: bool, address: str) -> Any:
    """What trains a recovered draft over Ray; the checkpoints lie beside ``out`` until the training has ended."""

    def train(draft: Any) -> list[str]:
        """Train ``draft`` in place; notes. The checkpoints go only once it has ended. Raises AutoSlimError where too many workers are lost."""
        from autoslim import training
        from autoslim.executors import _cluster

        folder = out.resolve().with_name(f"{out.name}.training")
        task = str(Path(wanted.task).resolve()) if wanted.task.endswith(".py") else wanted.task
        told = training.Plan(
            task,
            plan.as_dict(),
            training.weights_of(draft.model),
            steps,
            wanted.task_args,
            wanted.max_samples,
            wanted.part,
            lr=rate,
            sharded=sharded,
        )
        ray = _cluster.connect(address, workers, 0, False, None)
        try:
            notes = training.train(draft, told, workers, folder)
        finally:
            ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
        return notes

    return train
