"""The task behind ``--model KIND:NAME``: a network and its data without writing a task; one file per kind does the work."""

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from torch import nn

from autoslim.errors import UserError
from autoslim.inputs import Inputs

METRIC_NAME = "top-1 accuracy"
#: {kind: (what follows the colon, the file that does it)}
KINDS = {
    "torchvision": ("NAME", "_torchvision"),
    "hf": ("PATH_OR_NAME", "_huggingface"),
    "onnx": ("FILE", "_onnx"),
}


def model(model: str, data: str, weights: str = "", size: str = "", length: str = "") -> nn.Module:
    """The network in eval mode, the same in every process. Raises UserError for what the kind does not know."""
    kind, name, given = _kind(model, weights=weights, size=size, length=length)
    return kind.model(name, data, **given).eval()


def example_input(model: str, data: str, weights: str = "", size: str = "", length: str = "") -> Inputs:
    """A batch of one (of the graph's own size for an ONNX file with a fixed batch axis)."""
    kind, name, given = _kind(model, weights=weights, size=size, length=length)
    return kind.example_input(name, data, **given)


def data(split: str, model: str, data: str, weights: str = "", size: str = "", length: str = "") -> Iterator[tuple[Inputs, Any]]:
    """Batches of (inputs, class numbers), or of (inputs, None) where there are no labels."""
    kind, name, given = _kind(model, weights=weights, size=size, length=length)
    return kind.data(split, name, data, **given)


def text(model: str, data: str, weights: str = "", size: str = "", length: str = "") -> dict[str, Any] | None:
    """Which numbers are no words, of texts; None for other inputs."""
    kind, name, _ = _kind(model, weights=weights, size=size, length=length)
    return kind.text(name) if hasattr(kind, "text") else None


def notes(model: str, data: str, weights: str = "", size: str = "", length: str = "") -> list[str]:
    """What there is to know of the network's weights."""
    kind, name, given = _kind(model, weights=weights, size=size, length=length)
    return kind.notes(name, data, **given) if hasattr(kind, "notes") else []


def _kind(model: str, **args: str) -> tuple[ModuleType, str, dict[str, str]]:
    """(file of the kind, what follows the colon, the arguments that were given)."""
    kind, _, name = model.partition(":")
    if kind not in KINDS or not name:
        allowed = ", ".join(f"{known}:{what}" for known, (what, _) in KINDS.items())
        raise UserError(f"--model: got {model!r}, allowed: {allowed}; for anything else write a task (docs/task.md)")
    module = importlib.import_module(f"autoslim.tasks.{KINDS[kind][1]}")
    given = {key: value for key, value in args.items() if value}
    for key in given:
        if key not in module.ARGUMENTS:
            raise UserError(f"--task-arg: {key!r} is no argument of --model {kind}:..., allowed: {', '.join(module.ARGUMENTS) or 'none'}")
    return module, name, given
