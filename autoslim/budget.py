"""Limits, apart from measurements: what the user allows, and by how much a measurement breaks it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from autoslim.errors import UserError
from autoslim.metrics import Direction, Measurement

#: limit name -> (measured name, factor from the user's unit to the measured one)
LIMITS = {
    "ms": ("latency_ms", 1.0),
    "mb": ("size_bytes", 1e6),
    "macs": ("macs", 1.0),
    "memory_mb": ("peak_memory_bytes", 1e6),
}
#: what a share of the untouched time is judged by: the ratio that was timed in turn with the untouched file
RATIO = "latency_ratio"
_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}


@dataclass(frozen=True)
class Limit:
    """At most ``amount``: absolute in the measured unit, or a share of the untouched model's value."""

    amount: float
    relative: bool

    def resolve(self, untouched: float) -> float:
        return self.amount * untouched if self.relative else self.amount


@dataclass(frozen=True)
class Drop:
    """Largest allowed loss of the leading metric: in the metric's own unit, or as a share of the untouched value."""

    amount: float
    relative: bool

    def resolve(self, untouched: float) -> float:
        return self.amount * abs(untouched) if self.relative else self.amount


def parse_limit(text: str | float, what: str, factor: float = 1.0, counts: bool = True) -> Limit:
    """``20``, ``60%`` or, where it ``counts`` things, ``50M``. Raises UserError that names ``what``."""
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%|[kKmMgG]?)\s*", str(text))
    if match and match.group(2) not in ("", "%") and not counts:
        match = None
    number = _number(match.group(1)) if match else None
    if number is None or not 0 < number < float("inf"):
        raise UserError(f"{what}: got {text!r}, allowed: a positive number such as 20, or a share of the untouched model such as 60%")
    if match.group(2) == "%":
        return Limit(number / 100.0, relative=True)
    return Limit(number * _SUFFIX[match.group(2).lower()] * factor, relative=False)


def parse_drop(text: str | float, what: str = "--max-drop") -> Drop:
    """``1pp`` (absolute, 0.01), ``1%`` (relative) or ``0.01`` (absolute, the metric's own unit). Raises UserError for anything else."""
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(pp|%|)\s*", str(text))
    number = _number(match.group(1)) if match else None
    if number is None or not 0 <= number < float("inf"):
        raise UserError(
            f"{what}: got {text!r}, allowed: 1pp (percentage points), 1% (of the untouched value) or a bare number such as 0.01"
        )
    if match.group(2) == "%":
        return Drop(number / 100.0, relative=True)
    return Drop(number / 100.0 if match.group(2) == "pp" else number, relative=False)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Budget:
    """All limits of a study. ``limits`` maps a key of LIMITS to its Limit."""

    limits: Mapping[str, Limit]
    max_drop: Drop | None = None

    def bound(self, name: str, untouched: Measurement) -> float | None:
        """The resolved limit in the measured unit, or None where it is not set or the untouched value is unknown."""
        limit = self.limits.get(name)
        if limit is None:
            return None
        base = untouched.get(LIMITS[name][0])
        if limit.relative and base is None:
            return None
        return limit.resolve(base or 0.0)

    def judged_by(self, name: str) -> str:
        """The name in METRICS of what a limit is held against: a share of the untouched time against the ratio timed in turn."""
        return RATIO if name == "ms" and self.limits[name].relative else LIMITS[name][0]

    def threshold(self, name: str, untouched: Measurement) -> float | None:
        """:meth:`bound` in the unit of :meth:`judged_by`: of a share of the untouched time the share itself."""
        if name in self.limits and self.judged_by(name) == RATIO:
            return self.limits[name].amount
        return self.bound(name, untouched)

    def violations(self, found: Measurement, untouched: Measurement, direction: Direction) -> dict[str, float]:
        """{limit: measured / bound - 1}; <= 0 holds. A latency counts with the upper end of its interval; a
        share of the untouched time is held against ``latency_ratio``, whose two times are of one run, and which is 1 for the untouched model.
        Where no drop at all is allowed, "max_drop" is the drop as a share of 1 % of the untouched metric.

        Limits whose measurement is missing in ``found`` are left out: the caller asks only for what it has measured.
        """
        broken = {}
        for name, (measured, _) in LIMITS.items():
            bound, value = self.bound(name, untouched), found.upper(measured)
            if name in self.limits and self.judged_by(name) == RATIO and found.get(RATIO) is not None:
                bound, value = self.threshold(name, untouched), 1.0 if found == untouched else found.upper(RATIO)
            if bound is not None and value is not None:
                broken[name] = value / bound - 1.0 if bound > 0 else float(value > 0)
        if self.max_drop is not None and found.get("metric") is not None:
            base = untouched.get("metric")
            lost = drop(found.get("metric"), base, direction)
            # scaled so that 0 is the limit and 1 is "as much again as was allowed"; where nothing is allowed, 1 % of the untouched value is the unit
            allowed = self.max_drop.resolve(base)
            broken["max_drop"] = (lost - allowed) / (allowed if allowed > 0 else max(0.01 * abs(base), 1e-9))
        return broken

    def names(self) -> tuple[str, ...]:
        """Every constraint that a trial of this budget carries."""
        return tuple(name for name in LIMITS if name in self.limits) + (("max_drop",) if self.max_drop else ())


def drop(value: float, untouched: float, direction: Direction) -> float:
    """How much worse than untouched, in the metric's unit; negative if better."""
    return untouched - value if direction == "max" else value - untouched


def feasible(violations: Mapping[str, float]) -> bool:
    return all(amount <= 1e-9 for amount in violations.values())
