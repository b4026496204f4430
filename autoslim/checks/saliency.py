"""Whether both files look at the same places of an image: rank correlation of their occlusion maps."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from autoslim import statistics
from autoslim.inputs import tensors
from autoslim.sidebyside import Files, Predict, first, images, is_image
from autoslim.task import Task

IMAGES, SIDE = 24, 4
#: an image costs as many runs as it has patches, and one; at least so many are looked at
LEAST = 8
#: correlations below which there is no interval
FEWEST = 8


class Member:
    """Occlusion (Zeiler and Fergus 2014, https://arxiv.org/abs/1311.2901, section 4.2), since shipped files have no gradients: each of 4 x 4
    patches is painted with the image's mean, and the fall of the untouched file's best class (its share after softmax) is the patch's
    weight. One Spearman correlation per image; images whose map is flat in either file are left out.
    """

    title = "Saliency agreement"

    def passes(self, task: Task) -> int:
        return 1 if images(task) else 0

    def rows(self, files: Files) -> list[dict[str, Any]]:
        """One row: the mean correlation, from -1 to 1, of the file's maps of what matters with the original's, with a 95 % interval from
        FEWEST
        samples on. No row where no sample has maps."""
        found = [one for inputs, _ in first(files.task.batches(files.split), looked_at(files.n)) for one in agreements(files, inputs)]
        if not found:
            return []
        known = statistics.mean_interval(np.array(found)) if len(found) >= FEWEST else None
        mean = float(np.mean(found))
        return [
            {
                "level": f"correlation of {SIDE} x {SIDE} maps",
                "n": len(found),
                "untouched": 1.0,
                "file": mean,
                "drop": 1.0 - mean,
                "low": None if known is None else 1.0 - known.high,
                "high": None if known is None else 1.0 - known.low,
            }
        ]


def looked_at(n: int) -> int:
    """Images that cost about as much as ``n`` samples."""
    return min(IMAGES, max(LEAST, n // (SIDE * SIDE + 1)))


def agreements(files: Files, inputs: Any) -> Iterator[float]:
    """One correlation per image whose maps both say something."""
    plain = scores(files.untouched, inputs)
    if plain is None:
        return
    best = plain.argmax(1)
    for one, other in zip(occlusion(files.untouched, inputs, best), occlusion(files.file, inputs, best), strict=True):
        if np.ptp(one) > 1e-6 and np.ptp(other) > 1e-6:
            yield spearman(one, other)


def scores(run: Predict, inputs: Any) -> Tensor | None:
    """(n, classes) shares, None where the outputs are no class scores."""
    found = tensors(run(inputs))[0]
    return found.float().softmax(1) if found.dim() == 2 and found.shape[1] > 1 else None


def occlusion(run: Predict, inputs: Any, best: Tensor) -> np.ndarray:
    """(n, patches): how much the share of class ``best`` (n,) falls when a patch is painted."""
    rows = torch.arange(len(best))
    plain = scores(run, inputs)[rows, best]
    falls = [plain - scores(run, painted(inputs, down, right))[rows, best] for down in range(SIDE) for right in range(SIDE)]
    return torch.stack(falls, 1).numpy()


def painted(inputs: Any, down: int, right: int) -> Any:
    """The images of the inputs with one patch of the grid in their own mean; other tensors as they are."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not is_image(leaf):
            return leaf
        height, width = leaf.shape[2:]
        copy = leaf.clone()
        area = copy[:, :, down * height // SIDE : (down + 1) * height // SIDE, right * width // SIDE : (right + 1) * width // SIDE]
        area[:] = leaf.mean((2, 3), keepdim=True)
        return copy

    return pytree.tree_map(one, inputs)


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation of (n,) values, ties with their mean rank."""
    from scipy.stats import rankdata

    return float(np.corrcoef(rankdata(one), rankdata(other))[0, 1])
