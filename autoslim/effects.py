"""Single choices: which are measured, and how the answers become the tables that a forecast composes. No model is needed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoslim.forecast import Tables
from autoslim.space import RECOVERY, Domain, SearchSpace

SMALL = 1e-7


def items(space: SearchSpace) -> list[dict[str, Any]]:
    """What to measure: every choice that does something, its loss for the strongest, the middle one and unordered ones."""
    found = []
    for domain in space.domains:
        if domain.technique == RECOVERY:
            continue
        last = len(domain.choices) - 1
        for index, effects in enumerate(domain.effects):
            if effects:
                wanted = not domain.ordered or index in (last, (last + 1) // 2)
                found.append({"domain": domain.name, "choice": index, "loss": wanted})
    return found


def tables(space: SearchSpace, base: Mapping[str, Any], measured: Sequence[Mapping[str, Any]], size: float) -> Tables:
    """All items as Tables. ``base``: {"macs", "params": {layer: value}, "times": what sensitivity.times gives}; ``size``: bytes of the
    untouched file."""
    layers = tuple(base["macs"])
    floats = base["times"]["float"]
    scale = base["times"]["latency"] / max(sum(floats.values()), SMALL)
    ms = np.array([floats.get(name, 0.0) * scale for name in layers])
    weight = np.array([4.0 * base["params"][name] for name in layers])
    found = {(row["domain"], row["choice"]): row for row in measured}
    loss, shares = {}, {}
    for domain in space.domains:
        if domain.technique != RECOVERY:
            rows = [found.get((domain.name, index)) for index in range(len(domain.choices))]
            loss[domain.name] = interpolated(domain, rows)
            shares[domain.name] = shares_of(layers, base, rows)
    notes = tuple(f"{row['domain']}: choice {row['choice']} is not possible ({row['error']})" for row in measured if row.get("error"))
    other_ms = max(0.0, base["times"]["latency"] - float(ms.sum()))
    return Tables(
        layers,
        np.array([base["macs"][name] for name in layers]),
        weight,
        ms,
        max(0.0, size - float(weight.sum())),
        other_ms,
        loss,
        shares,
        notes,
    )


def shares_of(layers: Sequence[str], base: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
    """{"macs", "bytes", "slow": (C, L)} of one domain."""
    count = len(layers)
    found = {kind: np.ones((len(rows), count)) for kind in ("macs", "bytes", "slow")}
    times = base["times"]
    for choice, row in enumerate(rows):
        for index, name in enumerate(layers):
            if row is None or name not in row["macs"]:
                continue
            found["macs"][choice, index] = row["macs"][name] / max(base["macs"][name], 1.0)
            found["bytes"][choice, index] = row["params"][name] / max(base["params"][name], 1.0)
            if name in row["integer"]:
                found["bytes"][choice, index] *= 0.25
                if times["float"].get(name) and times["integer"].get(name):
                    found["slow"][choice, index] = times["integer"][name] / times["float"][name]
    return found


def interpolated(domain: Domain, rows: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
    """(C,) losses, never falling from one choice to a stronger one where choices are ordered; those not measured lie between
    their neighbours on a logarithmic scale over what they remove."""
    known = {index: max(row["loss"], SMALL) for index, row in enumerate(rows) if row is not None and row["loss"] is not None}
    values = np.zeros(len(rows))
    for index, row in enumerate(rows):
        if row is None:
            continue
        values[index] = known[index] if index in known else between(index, known)
    return np.maximum.accumulate(values) if domain.ordered else values


def between(index: int, known: Mapping[int, float]) -> float:
    """Loss of an unmeasured choice by its position: a power law through its measured neighbours, quadratic from the untouched choice."""
    lower = max((other for other in known if other < index), default=None)
    upper = min((other for other in known if other > index), default=None)
    if upper is None:
        return known[lower]
    if lower is None:
        return known[upper] * (index / upper) ** 2
    share = (np.log(index) - np.log(lower)) / (np.log(upper) - np.log(lower))
    return float(np.exp(np.log(known[lower]) + share * (np.log(known[upper]) - np.log(known[lower]))))
