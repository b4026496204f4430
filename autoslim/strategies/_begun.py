"""What every strategy of our own begins with: the space, what is judged, and a random state that depends on the trial's number alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autoslim.metrics import Direction, loss_sign
from autoslim.space import SearchSpace
from autoslim.strategies._sampled import derived


@dataclass(eq=False, repr=False)
class Begun:
    """A strategy adds its options as fields with defaults, and what it keeps in ``__post_init__``. ``objectives``: (name, direction) of each;
    ``constraints``: names of the limits."""

    space: SearchSpace
    objectives: Sequence[tuple[str, Direction]]
    constraints: Sequence[str]
    seed: int

    def costs(self) -> tuple[tuple[str, int], ...]:
        """(name, sign) of all objectives but the metric; times its sign each is to be minimised."""
        return tuple((name, loss_sign(direction)) for name, direction in self.objectives if name != "metric")

    def random(self, number: int) -> np.random.Generator:
        """The random state of a trial, the same on every machine and in every run."""
        return np.random.default_rng(derived(self.seed, number))
