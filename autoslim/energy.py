"""Energy of one run from the host's own counters (RAPL in /sys/class/powercap), where the system lets them be read; never estimated."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from autoslim.metrics import Value

POWERCAP = Path("/sys/class/powercap")
WINDOWS, SECONDS = 6, 0.25


class Counters:
    """The packages' counters; they hold everything that the processors do meanwhile, idling included."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._packages = [place for place in sorted(root.glob("*:*")) if is_package(place)]

    def __bool__(self) -> bool:
        return bool(self._packages)

    def read(self) -> list[tuple[int, int]]:
        """(microjoules, where the counter begins again) of each package."""
        return [(number(place / "energy_uj"), number(place / "max_energy_range_uj")) for place in self._packages]

    def per_run(self, run: Callable[[], object], windows: int = WINDOWS, seconds: float = SECONDS) -> Value:
        """Millijoules of one run: the median over windows of runs in a row, with the windows' range."""
        found = []
        for _ in range(windows):
            before, stop, runs = self.read(), time.perf_counter() + seconds, 0
            while runs == 0 or time.perf_counter() < stop:
                run()
                runs += 1
            found.append(spent(before, self.read()) / 1000 / runs)
        return Value(float(np.median(found)), min(found), max(found))


def spent(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> int:
    """Microjoules between two readings; a counter that began again is carried on."""
    return sum((now - then) % (most + 1) if now < then else now - then for (then, most), (now, _) in zip(before, after, strict=True))


def is_package(place: Path) -> bool:
    """Whether a zone is a whole package with a counter that this user may read (many systems let only root)."""
    try:
        return (place / "name").read_text().startswith("package") and number(place / "energy_uj") >= 0
    except (OSError, ValueError):
        return False


def number(path: Path) -> int:
    return int(path.read_text())
