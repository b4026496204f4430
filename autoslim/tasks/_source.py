"""What ``--data KIND:WHERE`` says, checked against the kinds that a network takes."""

from collections.abc import Mapping
from pathlib import Path

import torch

from autoslim.errors import UserError

SEEDS = {"train": 1, "val": 2, "test": 3}
BATCH = 16


def read(data: str, allowed: Mapping[str, str]) -> tuple[str, str]:
    """(kind, where). ``allowed`` maps a kind to what follows its colon. Raises UserError for another kind or nothing after
    the colon."""
    kind, _, where = data.partition(":")
    if kind not in allowed or not where:
        raise UserError(f"--data: got {data!r}, allowed: {' or '.join(f'{known}:{what}' for known, what in allowed.items())}")
    return kind, where


def whole(name: str, text: str, least: int, most: int | None = None) -> int:
    """``text`` as an integer in [least, most]; raises UserError in the name of the flag ``name``."""
    if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
        raise UserError(f"{name}: got {text!r}, allowed: an integer from {least}{f' to {most}' if most is not None else ''}")
    return int(text)


def random_batches(where: str) -> int:
    """N of ``random:N``."""
    return whole("--data random:N", where, 1)


def generator(split: str) -> torch.Generator:
    """The split's own random numbers, the same in every pass. Raises KeyError for another split."""
    return torch.Generator().manual_seed(SEEDS[split])


def mixed(count: int) -> list[int]:
    """The numbers below ``count`` in an order of no meaning, the same at every pass: files lie class by class, and recovery, calibration and
    ``--max-samples`` take what comes first."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()


def split_file(where: str, split: str, suffix: str) -> Path:
    """The split's file below the folder ``where``; raises UserError if there is none."""
    path = Path(where) / f"{split}{suffix}"
    if not path.is_file():
        raise UserError(f"--data: no file {str(path)!r}; expected {', '.join(f'{name}{suffix}' for name in SEEDS)} in {where!r}")
    return path
