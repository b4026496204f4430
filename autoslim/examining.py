"""After verification: shipped files on changed inputs (``checks/``), and which of their kernels run as integers; the recommended one first."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoslim import recommending
from autoslim.errors import AutoSlimError
from autoslim.study import Study

#: seconds of the checks of the recommended file and of each of the others, by which they get samples; seconds in which checks are begun when
#: --time is over
SECONDS, OTHERS, LATE = 4.0, 0.5, 0.5


class Lasting:
    """A worker that outlives the verification that it is lent to; the owner ends it with ``close``."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker

    def ask(self, verb: str, payload: Any = None) -> Any:
        return self._worker.ask(verb, payload)

    def kill(self) -> None:
        """Not yet."""

    def close(self) -> None:
        self._worker.kill()


def examine(
    study: Study,
    rows: list[Mapping[str, Any]],
    context: Mapping[str, Any],
    worker: Any,
    out: Path,
    say: Callable[[str], None],
    until: float | None = None,
) -> None:
    """Add the checks to the verified rows, that which ``rows`` of front.csv recommend first, the others while there is time; a checked file
    is not checked again, nor is the untouched one."""
    chosen = recommending.best(rows, context) or recommending.closest(rows, context)
    verified = study.fact("verified") or []
    base = next((row for row in verified if row["sha256"] == study.fact("untouched_sha256")), None)
    if base is None:
        return
    left = [row for row in verified if row is not base and "checks" not in (row.get("changes") or {})]
    left.sort(key=lambda row: not chosen or row["key"] != chosen["key"])
    try:
        for row in left:
            mine = bool(chosen) and row["key"] == chosen["key"]
            spare = SECONDS if until is None else until - time.monotonic()
            if spare < 0 and not mine:
                break
            if row is left[0]:
                say("looking at the files on changed inputs")
            within = min(SECONDS, max(LATE, spare))
            times = {"seconds": min(within, SECONDS if mine else OTHERS), "within": within}
            look(row, {"file": str(out / row["model_file"]), "untouched": str(out / base["model_file"]), **times}, worker, say)
    finally:
        study.set_fact("verified", verified)


def look(row: dict[str, Any], payload: Mapping[str, Any], worker: Any, say: Callable[[str], None]) -> None:
    """Add the checks of one file to its row."""
    try:
        row["changes"] = {**(row.get("changes") or {}), **worker.ask("check", payload)}
    except AutoSlimError as error:
        say(f"the checks of {row['key']} failed: {error}")
