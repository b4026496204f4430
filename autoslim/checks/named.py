"""Shifted test sets that the task names: data("shift:NAME") for each of its SHIFTS."""

from typing import Any

from autoslim.sidebyside import Files, first
from autoslim.task import Task


class Member:
    """Other cameras, speakers or years: what only the user has. The first samples of each set."""

    title = "Shifted test sets"

    def passes(self, task: Task) -> int:
        return len(task.shifts)

    def rows(self, files: Files) -> list[dict[str, Any]]:
        return [files.row(name, lambda name=name: first(files.task.batches(f"shift:{name}"), files.n)) for name in files.task.shifts]
