"""Texts and labels from ``train.csv``, ``val.csv`` and ``test.csv`` with a header line and the columns ``text`` and ``label``.

``label`` may be left out of all files: then there are no targets.
"""

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from autoslim.errors import UserError
from autoslim.tasks import _source


def batches(split: str, where: str, names: Mapping[str, int] | None) -> Iterator[tuple[list[str], Tensor | None]]:
    """Batches of (texts, class numbers (batch,)). ``names`` are the network's classes {name: number}; with None the labels
    are not read. Raises UserError for a file without the columns, and for labels that are no class."""
    path = _source.split_file(where, split, ".csv")
    numbers = None if names is None else _numbers(where, names)
    return _batches(path, numbers)


def _batches(path: Path, numbers: Mapping[str, int] | None) -> Iterator[tuple[list[str], Tensor | None]]:
    texts: list[str] = []
    targets: list[int] = []
    rows = list(_rows(path))
    for text, label in (rows[place] for place in _source.mixed(len(rows))):
        texts.append(text)
        if numbers is not None:
            targets.append(numbers[label])
        if len(texts) == _source.BATCH:
            yield texts, torch.tensor(targets) if targets else None
            texts, targets = [], []
    if texts:
        yield texts, torch.tensor(targets) if targets else None


def _rows(path: Path) -> Iterator[tuple[str, str | None]]:
    """(text, label) of each line; the label is None where the file has no such column."""
    with path.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or ()
        if "text" not in columns:
            raise UserError(f"--data: {str(path)!r} has the columns {', '.join(columns) or 'none'}, expected text and label")
        for row in reader:
            if row["text"] is None or ("label" in columns and row["label"] is None):
                raise UserError(f"--data: {str(path)!r} line {reader.line_num} is too short, expected text and label")
            yield row["text"], row.get("label")


def _numbers(where: str, names: Mapping[str, int]) -> dict[str, int] | None:
    """{label as written: class} over all files of the folder; None where no file has labels. Integers are class numbers;
    names are the network's own, whatever their case; of a network with nameless classes, the names in sorted order."""
    found = {path: {label for _, label in _rows(path)} for name in _source.SEEDS if (path := Path(where) / f"{name}.csv").is_file()}
    labels = set().union(*found.values())
    bare = [path for path, here in found.items() if here == {None}]
    if None in labels:
        if len(labels) > 1:
            raise UserError(f"--data: {str(bare[0])!r} has no column label, but another file there has; give all of them or none")
        return None
    return _classes(sorted(labels), dict(sorted(names.items(), key=lambda pair: pair[1])))


def _classes(labels: list[str], names: Mapping[str, int]) -> dict[str, int]:
    if all(re.fullmatch(r"\s*-?\d+\s*", label) for label in labels):
        return _known(labels, {str(number): number for number in names.values()}, lambda label: str(int(label)))
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names) and not set(labels) <= set(names):
        if len(labels) > len(names):
            raise UserError(
                f"--data: {len(labels)} different labels ({', '.join(labels[:4])}, ...), but the network has {len(names)} classes"
            )
        return {label: number for number, label in enumerate(labels)}
    fold = str.casefold if len({name.casefold() for name in names}) == len(names) else str
    return _known(labels, {fold(name): number for name, number in names.items()}, fold)


def _known(labels: list[str], classes: Mapping[str, int], key: Callable[[str], str]) -> dict[str, int]:
    strange = [label for label in labels if key(label) not in classes]
    if strange:
        some = ", ".join(list(classes)[:8]) + (", ..." if len(classes) > 8 else "")
        raise UserError(f"--data: got the label {strange[0]!r}, allowed for this network: {some}")
    return {label: classes[key(label)] for label in labels}
