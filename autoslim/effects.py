"""Single choices: which are measured, and how the answers become the tables that a forecast composes. No model is needed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoslim.forecast import SLOW_INTEGER, Tables
from autoslim.formats import is_integer, label, stored_bits
from autoslim.space import RECOVERY, Domain, SearchSpace

SMALL = 1e-7
#: loss of a choice that cannot be made
HOPELESS = 10.0


def hopeless(item: Mapping[str, Any], why: str) -> dict[str, Any]:
    """The answer for a choice that cannot be made."""
    told = {"loss": HOPELESS, "macs": {}, "params": {}, "integer": {}}
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
    """All items as Tables. ``base``: {"macs", "params": {layer: value}, "times": what ladder.times gives}; ``size``: bytes of the
    untouched file."""
    layers = tuple(base["macs"])
    floats = base["times"]["float"]
    scale = base["times"]["latency"] / max(sum(floats.values()), SMALL)
    ms = np.array([floats.get(name, 0.0) * scale for name in layers])
    weight = np.array([4.0 * base["params"][name] for name in layers])
    found = {(row["domain"], row["choice"]): row for row in measured}
    loss, shares, spread = {}, {}, {}
    for domain in space.domains:
        if domain.technique != RECOVERY:
            rows = [found.get((domain.name, index)) or presumed(domain, index, base) for index in range(len(domain.choices))]
            losses = interpolated(domain, rows)
            if losses is not None:
                loss[domain.name], spread[domain.name] = losses, doubts(rows)
            shares[domain.name] = shares_of(layers, base, rows)
    climb(searched(space), shares, layers, base["times"])
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
        spread,
        any(base["times"].get("ladder", {}).values()),
        tuple((space.places(drill["point"]), float(drill["ratio"])) for drill in base.get("drills", ())),
    )


def presumed(domain: Domain, choice: int, base: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer for a choice that was not measured, where the time did not suffice: what its values say of the layers that they name, no
    loss. None for one without effects, and where its value tells no share."""
    found: dict[str, Any] = {"loss": None, "macs": {}, "params": {}, "integer": {}, "bytes": {}}
    for unit, value in domain.effects[choice]:
        share = share_told(domain, choice)
        for name in [name for name in base["macs"] if name == unit or name.startswith(f"{unit}.")]:
            if domain.technique == "bits":
                found["bytes"][name] = base["params"][name] * stored_bits(value) / 8
                found["integer"] |= {name: label(value)} if is_integer(value) else {}
            elif share is None:
                continue
            found["macs"][name], found["params"][name] = (
                base[kind][name] * (1.0 if share is None else share) for kind in ("macs", "params")
            )
    return found if found["macs"] else None


def share_told(domain: Domain, choice: int) -> float | None:
    """What a choice says to leave of its layers: nothing of a removed block, a share as it stands; None where it says none."""
    told = domain.choices[choice]
    if domain.technique == "depth":
        return 0.0 if told is True else None
    shrinking = isinstance(told, float) and 0 < told < 1 and domain.technique in ("channels", "rank", "heads")
    return told if shrinking else None


def doubts(rows: Sequence[Mapping[str, Any] | None]) -> np.ndarray:
    """(C,) standard errors of the losses relative to them; of a choice that was not measured, the median of those that were."""
    known = [row["spread"] / row["loss"] if row and row.get("spread") and row["loss"] else np.nan for row in rows]
    told = np.array(known, dtype=float)
    typical = float(np.nanmedian(told)) if np.isfinite(told).any() else 0.0
    return np.where(np.isfinite(told), told, [0.0 if row is None else typical for row in rows])


def shares_of(layers: Sequence[str], base: Mapping[str, Any], rows: Sequence[Mapping[str, Any] | None]) -> dict[str, np.ndarray]:
    """{"macs", "bytes", "slow", SLOW_INTEGER: (C, L)} of one domain."""
    count = len(layers)
    found = {kind: np.ones((len(rows), count)) for kind in ("macs", "bytes", "slow", SLOW_INTEGER)}
    times = base["times"]
    for choice, row in enumerate(rows):
        for index, name in enumerate(layers):
            if row is None or name not in row["macs"]:
                continue
            found["macs"][choice, index] = row["macs"][name] / max(base["macs"][name], 1.0)
            found["bytes"][choice, index] = row["params"][name] / max(base["params"][name], 1.0)
            if name in row.get("bytes", {}):
                found["bytes"][choice, index] = row["bytes"][name] / max(4.0 * base["params"][name], 1.0)
            elif name in row["integer"]:  # tables of an older record
                found["bytes"][choice, index] *= 0.25
            spent = integer_time(row["integer"], name, times)
            if spent and times["float"].get(name):
                found["slow"][choice, index] = found[SLOW_INTEGER][choice, index] = spent / times["float"][name]
    return found


def integer_time(integer: Mapping[str, str] | Sequence[str], layer: str, times: Mapping[str, Any]) -> float:
    """Milliseconds of a layer's kernels in the format that ``integer`` tells, else in plain integers; 0 for a layer that it does not hold. Older
    records tell the layers alone."""
    if layer not in integer:
        return 0.0
    own = times.get("formats", {}).get(integer[layer], {}) if isinstance(integer, Mapping) else {}
    return own.get(layer) or times["integer"].get(layer) or 0.0


def climb(domains: Sequence[Domain], shares: Mapping[str, dict[str, np.ndarray]], layers: Sequence[str], times: Mapping[str, Any]) -> None:
    """Let the choices of channels slow layers by what the ladder tells beyond MACs: a layer's share of time at a position where all groups
    stand, evenly spread over the decisions that narrow it there, since those on its two sides multiply; less what is known of those that have
    fewer choices."""
    own = [domain for domain in domains if domain.technique == "channels"]
    for kind, column in (("float", "slow"), ("integer", SLOW_INTEGER)):
        for level, spent in enumerate(times.get("ladder", {}).get(kind, ()), 1):
            for index, name in enumerate(layers):
                places = [(domain.name, min(level, len(domain.choices) - 1), level < len(domain.choices)) for domain in own]
                places = [place for place in places if shares[place[0]]["macs"][place[1], index] < 1]
                work = float(np.prod([shares[domain]["macs"][choice, index] for domain, choice, _ in places]))
                known = float(np.prod([shares[domain][column][choice, index] for domain, choice, new in places if not new]))
                new = [(domain, choice) for domain, choice, here in places if here]
                if new and work > 0 and known > 0 and times[kind].get(name) and spent.get(name):
                    share = min(1.0, spent[name] / times[kind][name])
                    for domain, choice in new:
                        shares[domain][column][choice, index] = (share / work / known) ** (1 / len(new))


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
