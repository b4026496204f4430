"""After verification: the point that will be recommended is looked at more closely than the others (``checks/``)."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoslim import tables
from autoslim.errors import AutoSlimError
from autoslim.study import Study

#: seconds in which checks are begun, and when --time is over
SECONDS, LATE = 4.0, 0.5


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
    """Add the checks to the verified row that ``rows`` of front.csv recommend; a checked file is not checked again."""
    chosen = tables.best(rows, context) or tables.closest(rows, context)
    verified = study.fact("verified") or []
    mine = next((row for row in verified if chosen and row["key"] == chosen["key"]), None)
    base = next((row for row in verified if row["sha256"] == study.fact("untouched_sha256")), None)
    if mine is None or base is None or mine is base or "checks" in (mine.get("changes") or {}):
        return
    say("checking the recommended file against the untouched one")
    payload = {"file": str(out / mine["model_file"]), "untouched": str(out / base["model_file"])}
    try:
        found = worker.ask("check", {**payload, "seconds": LATE if until is not None and time.monotonic() > until else SECONDS})
    except AutoSlimError as error:
        say(f"the checks of {mine['key']} failed: {error}")
        return
    mine["changes"] = {**(mine.get("changes") or {}), **found}
    study.set_fact("verified", verified)
