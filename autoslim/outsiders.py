"""Trivial rivals that are no points of the search space, as the record has them: a fact of the study and never trials, so that nothing learns
from them, counts, recommends or picks them. ``rivals.py`` makes them.
"""

from collections.abc import Mapping
from typing import Any

from autoslim.candidate import Done
from autoslim.study import NO_TRIAL, Entry, outcome_of

#: name of the fact: {label: a record as study.pack gives it, or {WHY: why there is none}}
FACT, WHY = "rivals", "why"

Told = Mapping[str, Mapping[str, Any]]


def entries(told: Told | None) -> list[Entry]:
    """The rivals of the fact that were measured, as entries that are no trials."""
    found = [(label, record, outcome_of(record)) for label, record in (told or {}).items()]
    return [Entry(NO_TRIAL, {}, label, {}, record["key"], end) for label, record, end in found if isinstance(end, Done)]


def lacking(told: Told | None) -> dict[str, str]:
    """{label: why} of the rivals that could not be made."""
    return {
        label: record.get(WHY) or f"{record['reason']}: {record['detail']}"
        for label, record in (told or {}).items()
        if WHY in record or record["end"] == "failed"
    }
