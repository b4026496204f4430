"""What a number format costs trained networks, without labels: every layer that can take it, ranges from unlabelled train inputs.

Run: ``python benchmarks/int8_drop.py [--format 8 w4] [--network NETWORK ...]`` (default: int8, all networks; "w4" are weights of four bits by
GPTQ under float kernels). Prints a row per network and format: the metric in float and with the format, the drop in percentage points with its paired 95 % interval, how often both choose the same, the bytes of the files as a share, and the layers that
were left in float. Which packages hold the networks and data stands in trained_networks.py; a network whose package is missing is named.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from trained_networks import NETWORKS, Trained

from autoslim import coverage, plugins
from autoslim.engine import Draft, compress
from autoslim.inputs import Inputs, batch_size, rows
from autoslim.recipe import Recipe, Step
from autoslim.statistics import paired_interval

RUNTIME = "onnxruntime_cpu"


def files(model: nn.Module, calibration: Inputs, value: object, folder: Path) -> tuple[Path, Path, tuple[str, ...]]:
    """(float file, file with the format, notes) of one network."""
    runtime, example = plugins.load("runtimes", RUNTIME), rows(calibration, 0, 1)
    structure = coverage.analyse(model, example)
    folder.mkdir()
    base, path = folder / "float.onnx", folder / "format.onnx"
    runtime.export(Draft(model, structure, example), example, [], base)
    pieces = [rows(calibration, at, at + 64) for at in range(0, batch_size(calibration), 64)]
    recipe = Recipe.of(Step("bits", unit, value) for unit in plugins.load("techniques", "bits").units(structure))
    draft = compress(model, recipe, pieces, structure=structure)
    return base, path, runtime.finish(draft, base, pieces, path)


def row(network: Trained | Sequence[Trained], value: object) -> dict[str, object]:
    """The figures of one network; of one that comes several times all samples together, the bytes their mean."""
    folds = [network] if isinstance(network, Trained) else network
    found = [judged(fold, value) for fold in folds]
    floats, ours, same = (np.concatenate(kind) for kind in zip(*(samples for samples, _, _ in found), strict=True))
    drop = paired_interval(floats, ours)
    return {
        "network": folds[0].name,
        "metric": folds[0].metric,
        "n": len(floats),
        "float": floats.mean(),
        "ours": ours.mean(),
        "drop_pp": 100 * drop.value,
        "drop_low": 100 * drop.low,
        "drop_high": 100 * drop.high,
        "agreement": same.mean(),
        "bytes": float(np.mean([share for _, share, _ in found])),
        "notes": list(dict.fromkeys(note for _, _, notes in found for note in notes)),
    }


def judged(network: Trained, value: object) -> tuple[tuple[np.ndarray, ...], float, list[str]]:
    """((right in float, right with the format, same choice) per sample, bytes as a share of the float file's, notes)."""
    runtime, notes, sizes = plugins.load("runtimes", RUNTIME), [], [0, 0]
    sessions: list[dict] = [{}, {}]
    with tempfile.TemporaryDirectory() as folder:
        for part, (model, calibration) in network.parts.items():
            *made, told = files(model, calibration, value, Path(folder) / (part or "whole"))
            notes += told
            for place, path in enumerate(made):
                sizes[place] += path.stat().st_size
                sessions[place][part] = runtime.open(path, 1).run
        (floats, chosen), (ours, ours_chosen) = (network.judge(one) for one in sessions)
    same = np.array([np.array_equal(a, b) for a, b in zip(chosen, ours_chosen, strict=True)])
    return (floats, ours, same), sizes[1] / sizes[0], notes


def main(words: list[str]) -> int:
    """Print a row per network and format; a network whose package or data is missing is named instead."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--format", nargs="+", default=["8"], help="values of bits, in JSON or as words")
    parser.add_argument("--notes", action="store_true", help="the notes of the export, too")
    told = parser.parse_args(words)
    torch.set_num_threads(1)
    print(
        f"{'network':<22}{'format':>7} {'metric':<13}{'n':>6}{'float':>8}{'ours':>8}{'drop pp':>9}{'interval':>18}{'agree':>8}{'bytes':>7}"
    )
    for name in told.network:
        try:
            network = NETWORKS[name]()
        except (ModuleNotFoundError, importlib_missing(), FileNotFoundError) as error:
            print(f"{name:<22}not here: {error}")
            continue
        for word in told.format:
            tell(word, row(network, value_of(word)), told.notes)
    return 0


def value_of(word: str) -> object:
    """A value of bits as a recipe has it."""
    try:
        return json.loads(word)
    except ValueError:
        return word


def tell(word: str, found: dict[str, object], notes: bool) -> None:
    """Print a row, and the notes of the export where they are asked for."""
    span = f"{found['drop_low']:+.2f}..{found['drop_high']:+.2f}"
    print(
        f"{found['network']:<22}{word:>7} {found['metric']:<13}{found['n']:>6}{found['float']:>8.4f}{found['ours']:>8.4f}{found['drop_pp']:>+9.2f}"
        f"{span:>18}{found['agreement']:>8.4f}{found['bytes']:>7.1%}",
        flush=True,
    )
    if notes:
        print(*(f"    {note}" for note in found["notes"]), sep="\n", flush=True)


def importlib_missing() -> type[Exception]:
    from importlib.metadata import PackageNotFoundError

    return PackageNotFoundError


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
