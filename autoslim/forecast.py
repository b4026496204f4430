"""What a recipe will cost, before it is built: measured effects of single choices, composed layer by layer, corrected by results.

A choice scales a layer's multiply-accumulates, bytes and time by shares that were measured with that choice alone. Shares of
different decisions multiply, which is exact for channels on a layer's two sides, for removed blocks and for bit-widths; losses add,
which is nearly exact where they are small (Frantar et al. 2022, SPDY, https://arxiv.org/abs/2201.13096). What single choices
cannot tell (fixed costs, how losses pile up) is fitted to the candidates that were really measured.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autoslim.correction import TURN, Correction, learned, terms
from autoslim.formats import is_integer
from autoslim.space import RECOVERY, SearchSpace

#: shares of a layer's time that do not shrink with its work; the fit picks one
FLOORS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
TINY = 1e-6
SLOW_INTEGER = "slow_integer"
KINDS = ("macs", "bytes", "slow", SLOW_INTEGER)
#: a corrected time is at least this share of the plain forecast
LEAST = 0.3
#: the logarithm that stands for a share of zero
GONE = -60.0


@dataclass(frozen=True)
class Tables:
    """``spread`` (C,): standard errors of the losses, relative. ``layers``: names, L of them. ``macs``, ``bytes``, ``ms``: (L,) of the untouched model; ``other_bytes``, ``other_ms``: what belongs to
    no layer. Per domain a row per choice: ``loss`` (C,) in units of the gap, ``shares`` {"macs" | "bytes" | "slow": (C, L)};
    "slow" is the factor on a layer's time that its MACs do not explain, such as that of integer kernels, and SLOW_INTEGER the same for a layer
    that computes in integers, as "slow" where it is missing. ``drills``: (row of choices, measured share of the untouched model's time) of whole
    files of random points."""

    layers: tuple[str, ...]
    macs: np.ndarray
    bytes: np.ndarray
    ms: np.ndarray
    other_bytes: float
    other_ms: float
    loss: Mapping[str, np.ndarray]
    shares: Mapping[str, Mapping[str, np.ndarray]]
    notes: tuple[str, ...] = ()
    spread: Mapping[str, np.ndarray] = field(default_factory=dict)
    #: whether "slow" holds what kernels cost that have less to do, so that no share of a layer's time stays besides
    stepped: bool = False
    drills: tuple[tuple[tuple[int, ...], float], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the record."""
        return {
            "layers": list(self.layers),
            **{name: [round(float(x), 6) for x in getattr(self, name)] for name in ("macs", "bytes", "ms")},
            "other_bytes": self.other_bytes,
            "other_ms": self.other_ms,
            "loss": {name: [float(x) for x in row] for name, row in self.loss.items()},
            "shares": {name: {kind: np.round(table, 5).tolist() for kind, table in kinds.items()} for name, kinds in self.shares.items()},
            "notes": list(self.notes),
            "spread": {name: np.round(row, 4).tolist() for name, row in self.spread.items()},
            "stepped": self.stepped,
            "drills": [[list(row), round(ratio, 5)] for row, ratio in self.drills],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> "Tables":
        """Tables from plain data, as :meth:`as_dict` gives it. Raises KeyError where a part is missing."""
        return Tables(
            tuple(data["layers"]),
            *(np.array(data[name], dtype=float) for name in ("macs", "bytes", "ms")),
            float(data["other_bytes"]),
            float(data["other_ms"]),
            {name: np.array(row, dtype=float) for name, row in data["loss"].items()},
            {name: {kind: np.array(table, dtype=float) for kind, table in kinds.items()} for name, kinds in data["shares"].items()},
            tuple(data.get("notes", ())),
            {name: np.array(row, dtype=float) for name, row in data.get("spread", {}).items()},
            bool(data.get("stepped", False)),
            tuple((tuple(row), float(ratio)) for row, ratio in data.get("drills", ())),
        )


def guessed(space: SearchSpace) -> Tables:
    """Tables for a space of which nothing was measured: later choices cost less and lose more, all domains alike."""
    names = tuple(domain.name for domain in space.domains if domain.technique != RECOVERY)
    loss, shares = {}, {}
    for index, name in enumerate(names):
        count = len(next(domain.choices for domain in space.domains if domain.name == name))
        steps = np.linspace(0.0, 1.0, count)
        table = np.ones((count, len(names)))
        table[:, index] = 1.0 - 0.8 * steps
        loss[name] = 0.1 * steps**2
        shares[name] = {"macs": table, "bytes": table, "slow": np.ones_like(table)}
    ones = np.ones(len(names))
    return Tables(names, ones, ones, ones / max(len(names), 1), 0.0, 0.0, loss, shares, ("guessed, nothing was measured",))


@dataclass
class Fit:
    """What results have taught: time = ``constant`` + ``scale`` * sum of layer times with the ``floor`` + ``correction``; log gap = ``shift`` + ``power`` *
    log of the weighted sum of losses; ``relief`` is the log of what the last choice of a recovery domain does to the gap."""

    constant: float = 0.0
    scale: float = 1.0
    floor: float = 0.05
    bytes_scale: float = 1.0
    shift: float = 0.0
    power: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)
    relief: float = -0.7
    correction: Correction | None = None
    time_error: float | None = None
    loss_error: float | None = None


@dataclass(frozen=True)
class Composed:
    """Of n rows: shares of ``macs``, ``bytes`` and ``slow``, and which layers are ``integer``, (n, L) each; summed ``losses`` by technique,
    (n, T); ``level`` of recovery, (n,) from 0 to 1."""

    macs: np.ndarray
    bytes: np.ndarray
    slow: np.ndarray
    losses: np.ndarray
    level: np.ndarray
    integer: np.ndarray


class Forecast:
    """Predictions for points given as rows of choice indices, (n, D), in the order of ``space.domains``."""

    def __init__(self, space: SearchSpace, tables: Tables) -> None:
        self.space, self.tables = space, tables
        self.domains = space.domains
        self.techniques = sorted({domain.technique for domain in space.domains} - {RECOVERY})
        self.fit_ = Fit(constant=tables.other_ms, weights=dict.fromkeys(self.techniques, 0.0))
        self.fit_.floor = 0.0 if tables.stepped else self.fit_.floor
        self.counts = [len(domain.choices) for domain in self.domains]
        self._offsets = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self._effects = self._stacked()
        self._silenced = self._removed()
        self._integer = self._integers()

    def _stacked(self) -> np.ndarray:
        """(all choices, 4 L + T): logs of the shares of KINDS, and losses by technique; one product with one-hot
        rows composes them."""
        blocks = []
        for domain in self.domains:
            shares = [np.log(np.maximum(self._shares(domain, kind), np.exp(GONE))) for kind in KINDS]
            losses = np.zeros((len(domain.choices), len(self.techniques)))
            if domain.technique != RECOVERY:
                losses[:, self.techniques.index(domain.technique)] = self.tables.loss[domain.name]
            blocks.append(np.hstack([*shares, losses]))
        return np.vstack(blocks)

    def _integers(self) -> np.ndarray:
        """(all choices, L): 1 where a choice lets a layer compute with integers."""
        table = np.zeros((len(self._effects), len(self.tables.layers)))
        for offset, domain in zip(self._offsets, self.domains, strict=True):
            for choice, effects in enumerate(domain.effects if domain.technique == "bits" else ()):
                for unit, value in effects:
                    if unit in self.tables.layers and is_integer(value):
                        table[offset + choice, self.tables.layers.index(unit)] = 1.0
        return table

    def _shares(self, domain: Any, kind: str) -> np.ndarray:
        known = self.tables.shares.get(domain.name)
        return np.ones((len(domain.choices), len(self.tables.layers))) if known is None else np.maximum(known.get(kind, known["slow"]), 0.0)

    def _removed(self) -> np.ndarray | None:
        """(all choices, D): 1 where a choice removes the block that another domain decides about; None where none does."""
        table = np.zeros((len(self._effects), len(self.domains)))
        for index, domain in enumerate(self.domains):
            for choice, effects in enumerate(domain.effects if domain.technique == "depth" else ()):
                gone = tuple(f"{unit}." for unit, _ in effects)
                for other, told in enumerate(self.domains):
                    units = [unit for done in told.effects for unit, _ in done]
                    if gone and other != index and units and all(unit.startswith(gone) for unit in units):
                        table[self._offsets[index] + choice, other] = 1.0
        return table if table.any() else None

    # -- composition ----------------------------------------------------------------------------------------------------

    def composed(self, rows: np.ndarray) -> "Composed":
        """Layer shares and summed losses of every row; those of domains that a removed block took along do not count."""
        rows = self.canonical(rows)
        chosen, width = self._one_hot(rows), len(self.tables.layers)
        table = chosen @ self._effects
        shares = np.exp(table[:, : len(KINDS) * width])
        shares[shares < np.exp(0.9 * GONE)] = 0.0
        macs, kept, slow, slow_integer = np.split(shares, len(KINDS), axis=1)
        integer = np.minimum(chosen @ self._integer, 1.0)
        slow = np.where(integer > 0, slow_integer, slow)
        return Composed(macs, kept, slow, table[:, len(KINDS) * width :], self.recovery_level(rows), integer)

    def canonical(self, rows: np.ndarray) -> np.ndarray:
        """The rows with every domain that decides nothing, since its block is removed, at its first choice."""
        if self._silenced is None:
            return np.array(rows)
        return np.where(self._one_hot(rows) @ self._silenced > 0, 0, rows)

    def _one_hot(self, rows: np.ndarray) -> np.ndarray:
        chosen = np.zeros((len(rows), len(self._effects)))
        chosen[np.arange(len(rows))[:, None], rows + self._offsets] = 1.0
        return chosen

    def recovery_level(self, rows: np.ndarray) -> np.ndarray:
        """(n,) 0 for the least recovery of the space, 1 for the most."""
        own = [index for index, domain in enumerate(self.domains) if domain.technique == RECOVERY and domain.ordered]
        if not own:
            return np.zeros(len(rows))
        return np.mean([rows[:, index] / max(1, len(self.domains[index].choices) - 1) for index in own], axis=0)

    # -- predictions ----------------------------------------------------------------------------------------------------

    def gap(self, rows: np.ndarray) -> np.ndarray:
        """(n,) predicted gap to the original, after recovery."""
        return self.gap_of(self.composed(rows))

    def ms(self, rows: np.ndarray) -> np.ndarray:
        """(n,) predicted latency."""
        return self.cost_of("latency_ms", self.composed(rows))

    def bytes(self, rows: np.ndarray) -> np.ndarray:
        """(n,) predicted size of the file."""
        return self.cost_of("size_bytes", self.composed(rows))

    def cost(self, name: str, rows: np.ndarray) -> np.ndarray:
        """(n,) a quantity of METRICS, or what goes in step with it; smaller is better."""
        return self.cost_of(name, self.composed(rows))

    def gap_of(self, found: "Composed") -> np.ndarray:
        """(n,) expected gaps of composed points."""
        weights = np.exp([self.fit_.weights[name] for name in self.techniques])
        pile = np.maximum(found.losses @ weights, TINY)
        return np.exp(self.fit_.shift + self.fit_.power * np.log(pile) + self.fit_.relief * found.level)

    def cost_of(self, name: str, found: "Composed") -> np.ndarray:
        """(n,) expected costs of composed points: ms for latency and throughput, MACs, else bytes."""
        if name in ("latency_ms", "throughput"):
            plain = self._plain_ms(found)
            made = self.fit_.correction
            return plain if made is None else np.maximum(plain + made.of(self._terms(found)), LEAST * plain)
        if name == "macs":
            return found.macs @ self.tables.macs
        return self.tables.other_bytes + self.fit_.bytes_scale * (found.bytes @ self.tables.bytes)

    def _plain_ms(self, found: "Composed") -> np.ndarray:
        return self.fit_.constant + self.fit_.scale * self._work(found, self.fit_.floor).sum(1)

    @property
    def turn_ms(self) -> float:
        """Mean milliseconds of a conversion between a float and an integer layer, as far as results told; 0 where they did not."""
        made = self.fit_.correction
        return 0.0 if made is None else max(0.0, float((made.turns * self.tables.ms).mean())) * TURN

    @property
    def whole_ms(self) -> float:
        """Latency of the untouched model when the tables were measured."""
        return float(self.tables.ms.sum()) + self.tables.other_ms

    def _terms(self, found: "Composed") -> np.ndarray:
        time = self.fit_.scale * self._work(found, self.fit_.floor)
        return terms(time, found.integer, found.macs > 0, self.tables.ms)

    def _work(self, found: "Composed", floor: float) -> np.ndarray:
        """(n, L) milliseconds of every layer, before ``scale``."""
        return found.slow * np.where(found.macs > 0, floor + (1 - floor) * found.macs, 0.0) * self.tables.ms

    # -- learning -------------------------------------------------------------------------------------------------------

    def fit(self, rows: np.ndarray, ms: Sequence[float], size: Sequence[float], gaps: Sequence[float]) -> None:
        """Learn from measured points, (n, D), and from the tables' drills; NaN marks what was not measured. The tables count as one more
        observation, so that a few results correct them and do not replace them."""
        drilled = np.array([row for row, _ in self.tables.drills], dtype=int).reshape(-1, len(self.domains))
        ratios = np.array([ratio for _, ratio in self.tables.drills], dtype=float)
        self._fit_time(np.vstack([self.canonical(drilled), rows]), np.concatenate([ratios * self.whole_ms, np.asarray(ms, dtype=float)]))
        self._fit_bytes(rows, np.asarray(size, dtype=float))
        self._fit_gap(rows, np.asarray(gaps, dtype=float))

    def _fit_time(self, rows: np.ndarray, ms: np.ndarray) -> None:
        known = np.isfinite(ms) & (ms > 0)
        if known.sum() < 3:
            return
        best, found = None, self.composed(rows[known])
        for floor in FLOORS:
            work = self._work(found, floor).sum(1)
            # relative errors: each observation weighs as 1 / its time; a weak pull towards scale 1 and the measured rest
            left = np.column_stack([1 / ms[known], work / ms[known]])
            pull = np.array([[0.1 / max(self.tables.ms.sum(), TINY), 0.0], [0.0, 0.1]])
            right = np.concatenate([np.ones(known.sum()), [0.1 * self.tables.other_ms / max(self.tables.ms.sum(), TINY), 0.1]])
            constant, scale = nonnegative(np.vstack([left, pull]), right)
            error = np.abs((constant + scale * work) / ms[known] - 1)
            if best is None or (error**2).mean() < best[0]:
                best = (error**2).mean(), constant, scale, floor, float(error.mean())
        _, self.fit_.constant, self.fit_.scale, self.fit_.floor, self.fit_.time_error = best
        self.fit_.correction = learned(self._terms(found), self._plain_ms(found), ms[known])
        if self.fit_.correction is not None:
            self.fit_.time_error = self.fit_.correction.error

    def _fit_bytes(self, rows: np.ndarray, size: np.ndarray) -> None:
        known = np.isfinite(size) & (size > 0)
        if known.sum() >= 3:
            pure = self.composed(rows[known]).bytes @ self.tables.bytes
            ratio = np.clip((size[known] - self.tables.other_bytes) / np.maximum(pure, 1.0), 0.2, 5.0)
            self.fit_.bytes_scale = float(np.median(ratio))

    def _fit_gap(self, rows: np.ndarray, gaps: np.ndarray) -> None:
        """Gauss-Newton on the logarithm, a few steps, each pulled towards the tables by a ridge."""
        found = self.composed(rows)
        known = np.isfinite(gaps) & (gaps > 0) & (found.losses.sum(1) > 0)
        if known.sum() < 4:
            return
        losses, level, goal = found.losses[known], found.level[known], np.log(np.maximum(gaps[known], TINY))
        prior = np.array([0.0, 1.0, -0.7, *np.zeros(len(self.techniques))])
        pull = np.array([0.3, 2.0, 1.0, *np.full(len(self.techniques), 0.5)])

        def predicted(theta: np.ndarray) -> np.ndarray:
            return theta[0] + theta[1] * np.log(np.maximum(losses @ np.exp(theta[3:]), TINY)) + theta[2] * level

        theta = prior.copy()
        for _ in range(12):
            error = goal - predicted(theta)
            huber = 1 / np.sqrt(np.maximum(1.0, np.abs(error)))
            jacobian = np.column_stack([(predicted(theta + 1e-4 * unit) - predicted(theta)) / 1e-4 for unit in np.eye(len(theta))])
            left = np.vstack([jacobian * huber[:, None], np.diag(pull)])
            right = np.concatenate([error * huber, pull * (prior - theta)])
            theta = theta + np.clip(np.linalg.lstsq(left, right, rcond=None)[0], -1.0, 1.0)
            theta[1] = np.clip(theta[1], 0.3, 2.0)
            theta[2] = min(theta[2], 0.0)
        self.fit_.shift, self.fit_.power, self.fit_.relief = (float(x) for x in theta[:3])
        self.fit_.weights = dict(zip(self.techniques, (float(x) for x in theta[3:]), strict=True))
        self.fit_.loss_error = float(np.abs(goal - predicted(theta)).mean())


def nonnegative(left: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Least squares in two unknowns that may not be negative."""
    both = np.linalg.lstsq(left, right, rcond=None)[0]
    if (both >= 0).all():
        return float(both[0]), float(both[1])
    alone = [max(0.0, float(left[:, i] @ right / max(left[:, i] @ left[:, i], TINY))) for i in (0, 1)]
    errors = [float(np.square(left[:, i] * alone[i] - right).sum()) for i in (0, 1)]
    return (0.0, alone[1]) if errors[1] <= errors[0] else (alone[0], 0.0)
