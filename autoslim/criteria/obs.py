"""SparseGPT: second-order choice, and the weights that stay make up for those that go.

Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774, algorithm 1, which is the Optimal Brain Surgeon of Hassibi & Stork 1992
(https://proceedings.neurips.cc/paper/1992/hash/303ed4c69846ab36c2904d3ba8573050-Abstract.html, eq. 5) with one fixed order of columns
for all rows. The layer's Hessian is the Gram matrix of its inputs.
"""

import torch
from torch import Tensor

from autoslim.interfaces import Choose

#: columns that are chosen at once (paper, section 3.2, "lazy batch updates"), and the damping as a share of the mean diagonal
COLUMNS, DAMPING = 128, 0.01


class Member:
    """Score w^2 / [H^-1]_jj; see the module."""

    reads_inputs = True
    per_row = False

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return (weight.double() / factor(inputs).diagonal()).square()

    def prune(self, weight: Tensor, inputs: Tensor | None, choose: Choose) -> tuple[Tensor, Tensor]:
        """(weights, kept), both (outputs, inputs): columns in turn, the error of each spread over those after it."""
        upper, solved = factor(inputs), weight.double().clone()
        kept = torch.ones_like(weight, dtype=torch.bool)
        width = COLUMNS - COLUMNS % (choose.step or choose.width)
        for start in range(0, weight.shape[1], width):
            stop = min(start + width, weight.shape[1])
            errors = sweep(solved[:, start:stop], upper[start:stop, start:stop], kept[:, start:stop], choose)
            solved[:, stop:] -= errors @ upper[start:stop, stop:]
        return (solved * kept).to(weight.dtype), kept


def factor(inputs: Tensor) -> Tensor:
    """The upper Cholesky factor of H^-1, (columns, columns); its squared diagonal is [H^-1]_jj once the columns before j are done."""
    gram = (inputs.t() @ inputs).double()  # twice as fast as sums in double precision, and the damping is far above their error
    gram.diagonal().add_(DAMPING * gram.diagonal().mean().clamp_min(1e-12))
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram)), upper=True)


def sweep(weight: Tensor, upper: Tensor, kept: Tensor, choose: Choose) -> Tensor:
    """Prune some columns in place, each error spread over the columns to its right; returns the scaled errors, (rows, columns)."""
    errors = torch.zeros_like(weight)
    step = choose.step or weight.shape[1]
    for column in range(weight.shape[1]):
        if column % step == 0:
            part = slice(column, column + step)
            kept[:, part] = choose((weight[:, part] / upper.diagonal()[part]).square())
        errors[:, column] = weight[:, column] * ~kept[:, column] / upper[column, column]
        weight[:, column:] -= errors[:, column, None] * upper[column, column:]
    return errors
