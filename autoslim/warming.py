"""A finished study as the start of another: for another budget, another device, or retrained weights."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autoslim import effects, report, tables
from autoslim.candidate import Done
from autoslim.forecast import SLOW_INTEGER, Tables
from autoslim.loop import Loop
from autoslim.space import Domain
from autoslim.study import Study

#: what must be the same for losses to be taken over, and for times besides
SAME_LOSSES, SAME_TIMES = ("weights", "task", "part"), ("runtime", "threads")


def points(loop: Loop, prepared: Any) -> list[tuple[str, dict[str, Any]]]:
    """The front of --warm-start's study as points of this space, strongest trade-offs first measured; points that this space lacks are
    left out, with a message. Raises UserError where there is no study."""
    old = Study.read(Path(loop.spec.warm_start))
    context = report.context_of(old)
    entries = [entry for entry in report.judged_entries(old, context) if isinstance(entry.outcome, Done) and entry.label != "untouched"]
    front = tables.select_front(entries, context["untouched"], context["objectives"], context["metric_direction"], loop.spec.verify)
    found = [translated(entry.point, prepared.space) for entry in front]
    known = [("", point) for point in found if point is not None]
    loop.watcher.message(f"warm start: {len(known)} of {len(front)} points of the front of {loop.spec.warm_start} are measured first")
    return known


def translated(point: Any, space: Any) -> dict[str, Any] | None:
    """The point with the same choices in another space; None if it has a decision or a choice that the space does not have."""
    made = space.identity()
    for domain in space.domains:
        if domain.name in point:
            if point[domain.name] not in domain.choices:
                return None
            made[domain.name] = point[domain.name]
    return made if all(name in made or name.startswith("recovery:") for name in point) else None


def measured_tables(loop: Loop, prepared: Any, names: Any) -> dict[str, Any] | None:
    """The tables of --warm-start's study where they hold here: whole on the same machine and runtime; with times measured anew on another;
    not at all for other weights or another space (None)."""
    old = Study.read(Path(loop.spec.warm_start))
    known, theirs = old.fact("tables"), old.fact("identity") or {}
    mine = dict(prepared.identity)
    if known is None or known["domains"] != names or any(theirs.get(name) != mine.get(name) for name in SAME_LOSSES):
        return None
    here, there = loop.study.fact("environment") or {}, old.fact("environment") or {}
    same_machine = here.get("processor") == there.get("processor") and all(theirs.get(name) == mine.get(name) for name in SAME_TIMES)
    if same_machine:
        return known["tables"]
    base, _ = loop.executor.tables([], loop.watcher.message, lambda: True)
    found = effects.tables(prepared.space, base, [], prepared.untouched.get("size_bytes"))
    before = Tables.from_dict(known["tables"])
    shares = {
        domain.name: retimed(domain, before.shares[domain.name], found.layers, base["times"]) for domain in effects.searched(prepared.space)
    }
    effects.climb(effects.searched(prepared.space), shares, found.layers, base["times"])
    return replace(found, loss=before.loss, shares=shares).as_dict()


def retimed(domain: Domain, shares: Mapping[str, np.ndarray], layers: Sequence[str], times: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The shares of one domain on another device, channels as their work alone tells."""
    slow = np.ones_like(shares["slow"])
    if domain.technique != "channels":
        slow = np.array([slowed(row, layers, times) for row in shares["slow"]])
    return {"macs": shares["macs"], "bytes": shares["bytes"], "slow": slow, SLOW_INTEGER: slow.copy()}


def slowed(row: Any, layers: Any, times: Any) -> list[float]:
    """A choice's factors on the layers' times, from this device's own profiles where the choice makes a layer an integer one."""
    ratios = {name: times["integer"][name] / ms for name, ms in times["float"].items() if ms and times["integer"].get(name)}
    return [ratios.get(name, 1.0) if factor != 1.0 else 1.0 for name, factor in zip(layers, row, strict=True)]
