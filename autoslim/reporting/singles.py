"""The tables of single choices that the strategy measured, composed for one point: what each layer costs before and after.

Shares of different decisions on one layer multiply (forecast.py says why). What comes out is a forecast and is named so wherever it
is shown; studies of strategies that measure no tables have none.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim.forecast import Tables
from autoslim.reporting.context import Material

COSTS = ("ms", "bytes", "macs")


@dataclass(frozen=True)
class Singles:
    """``choices``: {domain: its choices, mildest first}."""

    tables: Tables
    choices: Mapping[str, list[Any]]

    def techniques(self) -> list[str]:
        """The techniques that have measured choices, sorted."""
        return sorted({technique_of(name) for name in self.tables.shares})

    def shares(self, point: Mapping[str, Any], techniques: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """{"macs", "bytes", "slow": (layers,) shares of the untouched value}; only decisions of ``techniques`` if they are given."""
        wanted = None if techniques is None else set(techniques)
        found = {kind: np.ones(len(self.tables.layers)) for kind in ("macs", "bytes", "slow")}
        for name, kinds in self.tables.shares.items():
            if name in point and (wanted is None or technique_of(name) in wanted):
                index = self.index(name, point[name])
                for kind in found:
                    found[kind] = found[kind] * np.maximum(kinds[kind][index], 0.0)
        return found

    def layers(self, point: Mapping[str, Any], techniques: Iterable[str] | None = None) -> dict[str, np.ndarray]:
        """{"ms", "bytes", "macs": (layers,)} of the point."""
        shares = self.shares(point, techniques)
        return {
            "ms": self.tables.ms * shares["macs"] * shares["slow"],
            "bytes": self.tables.bytes * shares["bytes"],
            "macs": self.tables.macs * shares["macs"],
        }

    def total(self, cost: str, point: Mapping[str, Any], techniques: Iterable[str] | None = None) -> float:
        """The whole model's cost, with what belongs to no layer."""
        other = {"ms": self.tables.other_ms, "bytes": self.tables.other_bytes, "macs": 0.0}[cost]
        return other + float(self.layers(point, techniques)[cost].sum())

    def losses(self, point: Mapping[str, Any]) -> dict[str, float]:
        """{technique: sum of the losses of its decisions, each measured alone}, in units of the gap."""
        found = dict.fromkeys(self.techniques(), 0.0)
        for name, losses in self.tables.loss.items():
            if name in point:
                found[technique_of(name)] += float(losses[self.index(name, point[name])])
        return found

    def index(self, domain: str, value: Any) -> int:
        return self.choices[domain].index(value)


def singles_of(material: Material) -> Singles | None:
    """The tables of a study; None where its strategy measured none."""
    fact, space = material.fact("tables"), material.fact("space")
    if fact is None or space is None:
        return None
    return Singles(Tables.from_dict(fact["tables"]), {name: list(choices) for name, choices in json.loads(space)})


def technique_of(domain: str) -> str:
    return domain.partition(":")[0]


#: kinds of choices that can be keys themselves
SCALARS = frozenset((str, int, float, bool, type(None)))


def positions(choices: Sequence[Any]) -> Callable[[Any], int | None]:
    """A function from a choice of a domain to its place among ``choices``, None for one that is not there. A choice may be a mapping; 1, 1.0
    and True are three choices."""
    known = {json.dumps(choice): place for place, choice in enumerate(choices)}
    found: dict[Any, int | None] = {}

    def place(value: Any) -> int | None:
        key = (type(value), value) if type(value) in SCALARS else json.dumps(value)
        if key not in found:
            found[key] = known.get(json.dumps(value))
        return found[key]

    return place
