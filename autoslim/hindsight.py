"""How good the forecasts were: what was predicted when a point was asked, against what was measured. Needs no model."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoslim.candidate import Done
from autoslim.study import Entry

#: quantity -> where it was measured, of a measurement and the untouched model's latency; times at the machine's speed of that latency
MEASURED = {
    "latency_ms": lambda found, base: found.get("latency_ms") if base is None else found.get("latency_ratio") * base,
    "size_bytes": lambda found, base: found.get("size_bytes"),
    "gap": lambda found, base: found.facts.get("gap"),
}


def pairs(entries: Sequence[Entry], name: str) -> np.ndarray:
    """(n, 2) predicted and measured values of one quantity, of the points that were evaluated."""
    base = untouched_ms(entries)
    found = [
        (entry.memo["forecast"][name], value)
        for entry in entries
        if isinstance(entry.outcome, Done) and entry.cached_from is None and name in (entry.memo.get("forecast") or {})
        if (value := MEASURED[name](entry.outcome.measurement, base)) is not None
    ]
    return np.array(found, dtype=float).reshape(-1, 2)


def untouched_ms(entries: Sequence[Entry]) -> float | None:
    """Latency of the untouched model; None where that, or the ratio of another, is not on record."""
    done = [entry for entry in entries if isinstance(entry.outcome, Done)]
    if any(entry.outcome.measurement.get("latency_ratio") is None for entry in done if not entry.label):
        return None
    return next((entry.outcome.measurement.get("latency_ms") for entry in done if entry.label == "untouched"), None)


def quality(entries: Sequence[Entry]) -> dict[str, Any] | None:
    """{quantity: {"n", "within_10_percent", "mean_error", "rank_correlation"}}; None where nothing was forecast. The mean error is that of the
    ratio predicted / measured, and for the gap, which spans decades, that of its natural logarithm."""
    found = {}
    for name in MEASURED:
        table = pairs(entries, name)
        table = table[(table > 0).all(1)]
        if len(table) < 3:
            continue
        off = table[:, 0] / table[:, 1]
        error = np.abs(np.log(off)) if name == "gap" else np.abs(off - 1)
        found[name] = {
            "n": len(table),
            "within_10_percent": round(float((np.abs(off - 1) <= 0.1).mean()), 4),
            "mean_error": round(float(error.mean()), 4),
            "rank_correlation": round(spearman(table[:, 0], table[:, 1]), 4),
        }
    return found or None


def spearman(left: np.ndarray, right: np.ndarray) -> float:
    """Correlation of ranks, equal values sharing their mean rank; 0 where one side is constant."""
    a, b = ranks(left), ranks(right)
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 0 else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """(n,) ranks from 0, equal values at the mean of theirs."""
    order = np.unique(values, return_inverse=True, return_counts=True)
    first = np.cumsum(order[2]) - order[2]
    return (first + (order[2] - 1) / 2)[order[1]]
