"""Sound 6 dB and 12 dB quieter."""

from typing import Any

from autoslim.sidebyside import Files, changed, kind
from autoslim.task import Task

DECIBELS = (-6.0, -12.0)


class Member:
    """Waveforms are multiplied; only for tasks that say ``INPUT_KIND = "audio"``, since spectral features cannot be told from others."""

    title = "Gain"

    def passes(self, task: Task) -> int:
        return len(DECIBELS) if kind(task) == "audio" else 0

    def rows(self, files: Files) -> list[dict[str, Any]]:
        return [files.row(f"{level:+g} dB", lambda level=level: quieter(files, level)) for level in DECIBELS]


def quieter(files: Files, decibels: float) -> Any:
    return changed(files.samples(), lambda leaf, _: leaf * 10 ** (decibels / 20))
