"""Magnitude: the smallest weights go (Han et al. 2015, https://arxiv.org/abs/1506.02626)."""

from torch import Tensor

from autoslim.interfaces import Choose


class Member:
    """Looks at the weights alone; they are compared over the whole layer."""

    reads_inputs = False
    per_row = False

    def scores(self, weight: Tensor, inputs: Tensor | None) -> Tensor:
        return weight.abs()

    def prune(self, weight: Tensor, inputs: Tensor | None, choose: Choose) -> tuple[Tensor, Tensor]:
        kept = choose(self.scores(weight, inputs))
        return weight * kept, kept
