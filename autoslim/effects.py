"""Single choices: which are measured, and how the answers become the tables that a forecast composes. No model is needed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoslim.forecast import Tables
from autoslim.space import RECOVERY, Domain, SearchSpace

SMALL = 1e-7
#: loss of a choice that cannot be made
HOPELESS = 10.0


def hopeless(item: Mapping[str, Any], why: str) -> dict[str, Any]:
    """The answer for a choice that cannot be made."""
    told = {"loss": HOPELESS, "macs": {}, "params": {}, "integer": []}
    return {"domain": item["domain"], "choice": item["choice"], **told, "error": " ".join(why.split())[:160]}


def items(space: SearchSpace, most: int = 64) -> list[dict[str, Any]]:
    """What to measure: what every choice does to size and work; its loss for at most ``most`` choices: the strongest of every
    domain first (spread over the network where there are more domains), then the middle ones."""
    wanted = set(losses_wanted(space, most))
    found = []
    for domain in searched(space):
        for index, effects in enumerate(domain.effects):
            if effects:
                found.append({"domain": domain.name, "choice": index, "loss": (domain.name, index) in wanted})
    return sorted(found, key=lambda item: not item["loss"])


def searched(space: SearchSpace) -> list[Domain]:
    return [domain for domain in space.domains if domain.technique != RECOVERY]


def losses_wanted(space: SearchSpace, most: int) -> list[tuple[str, int]]:
    """(domain, choice) pairs whose loss is worth its time, the most telling first."""
    domains = searched(space)
    strongest = [(domain.name, len(domain.choices) - 1) for domain in domains if domain.effects[-1]]
    other = [
        (domain.name, index)
        for domain in domains
        for index, effects in enumerate(domain.effects[:-1])
        if effects and (not domain.ordered or index == len(domain.choices) // 2)
    ]
    return spread(strongest, most) + spread(other, max(0, most - len(strongest)))


def spread(pairs: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """At most ``most`` of the pairs, evenly over their order."""
    if len(pairs) <= most:
        return pairs
    return [pairs[int(i)] for i in np.unique(np.linspace(0, len(pairs) - 1, most).round())] if most else []


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
            losses = interpolated(domain, rows)
            if losses is not None:
                loss[domain.name] = losses
            shares[domain.name] = shares_of(layers, base, rows)
    loss |= borrowed(searched(space), loss)
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


def borrowed(domains: Sequence[Domain], known: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Losses of the domains that none was measured of: those of the two nearest measured domains of the same technique, in the order of
    the network, as geometric mean at the same position; a modest guess where there is none."""
    found = {}
    for index, domain in enumerate(domains):
        if domain.name in known:
            continue
        alike = [
            (abs(other - index), one.name) for other, one in enumerate(domains) if one.technique == domain.technique and one.name in known
        ]
        places = np.linspace(0.0, 1.0, len(domain.choices))
        curves = [np.interp(places, np.linspace(0.0, 1.0, len(known[name])), known[name]) for _, name in sorted(alike)[:2]]
        found[domain.name] = np.exp(np.mean([np.log(np.maximum(curve, SMALL)) for curve in curves], axis=0)) if curves else 0.05 * places**2
        found[domain.name][[i for i, effects in enumerate(domain.effects) if not effects]] = 0.0
    return found


def interpolated(domain: Domain, rows: Sequence[Mapping[str, Any] | None]) -> np.ndarray | None:
    """(C,) losses, None if none was measured; never falling from one choice to a stronger one where choices are ordered; those not measured lie between
    their neighbours on a logarithmic scale over what they remove."""
    known = {index: max(row["loss"], SMALL) for index, row in enumerate(rows) if row is not None and row["loss"] is not None}
    if not known:
        return None
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
