"""Particle swarm with an archive of leaders (Coello et al. 2004, MOPSO, doi 10.1109/TEVC.2004.826067), on positions of the choices."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim.candidate import Outcome, Point
from autoslim.strategies._archive import Archive, Seen
from autoslim.strategies._begun import Begun

#: inertia and pulls of Clerc and Kennedy 2002 (doi 10.1109/4235.985692): the swarm settles without a limit on speed
INERTIA, PULL = 0.7298, 1.4962


@dataclass(eq=False, repr=False)
class Member(Begun):
    """``particles`` fly through the unit cube, one coordinate per decision; each is drawn to its own best and to a leader of the front."""

    particles: int = 10

    def __post_init__(self) -> None:
        self._archive = Archive(self.space, self.objectives)
        self._flights: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._best: dict[int, tuple[Seen, np.ndarray]] = {}

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """The next position of particle ``number`` modulo the size of the swarm; the memo carries position and velocity."""
        generator = self.random(number)
        particle, size = number % self.particles, len(self._archive.counts)
        last = max((n for n in self._flights if n % self.particles == particle and n < number), default=None)
        front = self._archive.front()
        if last is None or not front:
            place, speed = generator.random(size), 0.2 * (generator.random(size) - 0.5)
        else:
            place, speed = self._flights[last]
            leader = (np.array(front[generator.integers(len(front))].row) + 0.5) / self._archive.counts
            own = self._best[particle][1] if particle in self._best else place
            speed = INERTIA * speed + PULL * generator.random(size) * (own - place) + PULL * generator.random(size) * (leader - place)
            place = place + speed
            speed = np.where((place < 0) | (place > 1), -0.5 * speed, speed)
            place = np.clip(place, 0.0, 1.0)
        row = np.minimum((place * self._archive.counts).astype(int), self._archive.counts - 1)
        memo = {"place": [round(float(x), 6) for x in place], "speed": [round(float(x), 6) for x in speed]}
        self._flights[number] = np.array(memo["place"]), np.array(memo["speed"])
        return self._archive.point(row), memo

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Note the outcome; a particle's own best is replaced by what dominates it, or is feasible where it was not."""
        seen = self._archive.tell(number, point, outcome)
        if "place" in memo and "speed" in memo:
            self._flights[number] = np.array(memo["place"], dtype=float), np.array(memo["speed"], dtype=float)
        if number not in self._flights or seen.values is None:
            return
        particle = number % self.particles
        best = self._best.get(particle)
        if best is None or better(seen, best[0]):
            self._best[particle] = seen, self._flights[number][0]


def better(one: Seen, other: Seen) -> bool:
    """Whether ``one`` should take the place of ``other``."""
    if one.feasible != other.feasible:
        return one.feasible
    return all(a <= b for a, b in zip(one.values, other.values, strict=True))
