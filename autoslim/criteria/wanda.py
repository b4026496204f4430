"""Wanda: weights that are small or read little go, row by row (Sun et al. 2023, https://arxiv.org/abs/2306.11695)."""

from torch import Tensor

from autoslim.interfaces import Choose


class Member:
    """Score |W_ij| * ||X_j||_2 (eq. 1), compared within each output (section 3, "comparison group"); no weight is updated."""

    reads_inputs = True
    per_row = True

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return weight.abs() * inputs.double().norm(dim=0)  # eq. 1

    def prune(self, weight: Tensor, inputs: Tensor | None, choose: Choose) -> tuple[Tensor, Tensor]:
        kept = choose(self.scores(weight, inputs))
        return weight * kept, kept
