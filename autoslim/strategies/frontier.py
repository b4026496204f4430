"""The default: solve for a whole predicted front from measured tables, measure along it, learn, solve again.

Single choices are measured once (sensitivity.py); their composition (forecast.py) predicts loss, latency and bytes of any point, a
solver (solver.py) turns that into the points of best trade-off, and what is really measured corrects the forecast. Of all
points in sight, the one is asked that promises most hypervolume beyond what is known. In the manner of SPDY (Frantar and Alistarh 2022,
https://arxiv.org/abs/2201.13096), with level-switch mutations at the front as in EvoPress (Sieberling et al. 2025,
https://arxiv.org/abs/2410.14649).
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoslim import pareto, solver
from autoslim.budget import LIMITS
from autoslim.candidate import Done, Outcome, Point, Rejected
from autoslim.forecast import Forecast, Tables, guessed
from autoslim.losses import Loss, learned
from autoslim.metrics import Measurement, loss_sign
from autoslim.settings import LOSSLESS
from autoslim.space import RECOVERY
from autoslim.strategies._begun import Begun
from autoslim.strategies._solutions import Solutions
from autoslim.tables import REFERENCE_COST

MUTANTS, POLISH_EVERY = 48, 6
#: every so many evaluations, one looks at logarithms of the gap, the others at the drop of the metric that is expected of it
FAITHFUL_EVERY = 3
#: every sixth evaluation, one of another residue, asks with limits on costs for the point within them that is nearest to the original; it must
#: be expected to have at most this share of the least gap that is measured there
NEAREST_EVERY, NEAREST_AT, NEARER = 6, 2, 0.9
#: how steeply a forecast beyond a limit counts against a point, and how much below a limit forecasts should be, both in logarithms
STEEP, MARGIN = 100.0, 0.03
#: it learns from the front and from so many of the latest results, or up to twice as many
WINDOW = 250
#: how many estimates of a limit are remembered
BOUNDS = 31
#: axes of the hypervolume are logarithms; gaps below the floor are as good as none, above the ceiling as good as lost
GAP_FLOOR, GAP_CEILING = 1e-4, 1.0
#: a gap from which recovery is worth its time on every point; below it only on the nearest one within limits
WORTH = 0.02


@dataclass(frozen=True)
class Told:
    """What one outcome taught."""

    row: tuple[int, ...]
    gap: float
    metric: float
    costs: tuple[float, ...]
    ms: float
    size: float
    done: bool
    feasible: bool
    #: the share of the allowed drop that it used up, whatever it costs; nan without a limit
    used: float

    @property
    def faithful(self) -> bool:
        """Within the allowed drop, as all are without a limit."""
        return self.done and not self.used > 1 + 1e-9


@dataclass(eq=False, repr=False)
class Member(Begun):
    """``tables``: what sensitivity.py measured, as plain data; without them it begins with guesses and learns."""

    tables: Mapping[str, Any] | None = None
    wants_tables = True

    def __post_init__(self) -> None:
        self._sign = next(loss_sign(direction) for name, direction in self.objectives if name == "metric")
        self._costs = self.costs()
        self._tables = Tables.from_dict(self.tables) if self.tables else guessed(self.space)
        self._counts = [1 if domain.technique == RECOVERY else len(domain.choices) for domain in self.space.domains]
        self._solutions = Solutions(self.space, self._costs, self._counts, self._tables, self.seed)
        self._measured_tables = bool(self.tables)
        self._blank = Forecast(self.space, self._tables)
        self._told: dict[int, Told] = {}
        self._pending: dict[int, tuple[int, ...]] = {}
        self._bounds: dict[str, float] = {}
        self._bounds_told: dict[str, deque[float]] = {}
        self._ready: tuple[int, Forecast, np.ndarray] | None = None
        self._rows: set[tuple[int, ...]] = set()
        self._recoveries = [i for i, domain in enumerate(self.space.domains) if domain.technique == RECOVERY]
        #: what needed no distillation, however long one is asked for: rows without their choices on recovery
        self._close: set[tuple[int, ...]] = set()
        self._only_steps = {self.space.domains[i].name for i in self._recoveries} <= {f"{RECOVERY}:distill_steps"}
        self._count, self._due, self._known = 0, 0, list[Told]()
        #: of every cost, measured over predicted; "of": the state of knowledge that they belong to
        self._factors: dict[Any, Any] = {}

    # -- the door -------------------------------------------------------------------------------------------------------

    def ask(self, number: int) -> tuple[Point, Mapping[str, Any]]:
        """The point that promises most; ties and doubts are broken by the random state of (seed, number)."""
        generator = self.random(number)
        forecast, solved = self._solved()
        row = None
        if number % POLISH_EVERY == POLISH_EVERY - 1:
            row = self._polish(forecast)
        if number % NEAREST_EVERY == NEAREST_AT:
            row = self._nearest(forecast, solved)
        if row is None:
            row = self._promising(forecast, solved, generator, None if number % FAITHFUL_EVERY == 1 else self._loss())
        self._pending[number] = tuple(int(i) for i in row)
        made = forecast.composed(np.array(row)[None])
        told = {"gap": forecast.gap_of(made), **{name: forecast.cost_of(name, made) for name in ("latency_ms", "size_bytes")}}
        return self._point(row), {"forecast": {name: float(value[0]) for name, value in told.items()}} if self._measured_tables else {}

    def tell(self, number: int, point: Point, memo: Mapping[str, Any], outcome: Outcome) -> None:
        """Learn an outcome; limits are read off the violations."""
        self._pending.pop(number, None)
        row = tuple(int(i) for i in self._blank.canonical(self._indices(point)[None])[0])
        known = isinstance(outcome, Done | Rejected)
        found = outcome.measurement if known else None
        done = isinstance(outcome, Done)

        def value(name: str) -> float:
            got = found.get(name) if known else None
            return float("nan") if got is None else float(got)

        ms = self._steady(value("latency_ratio"), value("latency_ms"))
        amounts = [(ms if name == "latency_ms" else value(name), sign) for name, sign in self._costs]
        costs = tuple(amount if sign > 0 else 1.0 / max(amount, 1e-12) for amount, sign in amounts)
        gap = float(found.facts.get("gap", "nan")) if done else float("nan")
        fits = done and all(amount <= 1e-9 for amount in outcome.violations.values())
        self._rows.add(row)
        if gap <= LOSSLESS:
            self._close.add(self._bare(row))
        used = 1 + outcome.violations.get("max_drop", float("nan")) if done else float("nan")
        self._told[number] = Told(row, gap, self._sign * value("metric"), costs, ms, value("size_bytes"), done, fits, used)
        self._note()
        for name, broken in (outcome.violations if known else {}).items():
            measured = self._upper(found, LIMITS[name][0]) if name in LIMITS else None
            if measured is not None and broken > -1:
                self._learn_bound(LIMITS[name][0], measured / (1 + broken))

    def _upper(self, found: Measurement, name: str) -> float | None:
        """The upper end of a measured cost; of a latency at the speed of the tables, as forecasts are."""
        upper = found.upper(name)
        if name != "latency_ms" or upper is None:
            return upper
        ratio = found.upper("latency_ratio")
        return self._steady(float("nan") if ratio is None else ratio, upper)

    def _learn_bound(self, name: str, bound: float) -> None:
        """A limit in the measured unit. One that is a share of the untouched time is another number of milliseconds whenever the machine's
        speed changes: the median of the latest counts."""
        told = self._bounds_told.setdefault(name, deque(maxlen=BOUNDS))
        told.append(bound)
        self._bounds[name] = float(np.median(told))

    def _steady(self, ratio: float, ms: float) -> float:
        """A latency at the machine's speed when the tables were measured: within minutes that speed changed by 25 % up and down, while
        the ratio to the untouched model, timed in turn, was off by 5 % in the mean."""
        return ratio * self._blank.whole_ms if self._measured_tables and np.isfinite(ratio) else ms

    # -- knowledge ------------------------------------------------------------------------------------------------------

    def _note(self) -> None:
        """After each result: forget old ones off the front, and decide whether the forecast is due to be fitted anew, ever more rarely;
        so that both follow from the results in their order alone."""
        self._count += 1
        if len(self._told) > 2 * WINDOW:
            front = {id(one) for one, _ in self._measured()}
            latest = list(self._told)[-WINDOW:]
            keep = {number for number, one in self._told.items() if id(one) in front} | set(latest)
            self._told = {number: one for number, one in self._told.items() if number in keep}
        every = 1 if self._count < 12 else min(max(3, self._count // 10), 100)
        if self._count - self._due >= every:
            self._due, self._known = self._count, list(self._told.values())

    def _solved(self) -> tuple[Forecast, np.ndarray]:
        """The forecast that the results so far give, and the points it holds best."""
        if self._ready is None or self._ready[0] != self._due:
            forecast, told = Forecast(self.space, self._tables), self._known
            if told or self._tables.drills:
                rows = np.array([one.row for one in told], dtype=int).reshape(-1, len(self._counts))
                forecast.fit(rows, [one.ms for one in told], [one.size for one in told], self._gaps(told))
            self._ready = self._due, forecast, self._solutions.front_rows(forecast)
        return self._ready[1], self._ready[2]

    @staticmethod
    def _gaps(told: Sequence[Told]) -> np.ndarray:
        """Measured gaps; where no run measures any, the loss of the metric against the best seen stands in."""
        gaps = np.array([one.gap for one in told], dtype=float)
        metrics = np.array([one.metric for one in told], dtype=float)
        if np.isfinite(gaps).any() or not np.isfinite(metrics).any():
            return gaps
        best = np.nanmin(metrics)
        return (metrics - best) / max(abs(best), 1e-9) + 1e-3

    # -- choosing -------------------------------------------------------------------------------------------------------

    def _is_tried(self, row: tuple[int, ...]) -> bool:
        return row in self._rows or row in self._pending.values() or self._only_steps and self._bare(row) in self._close

    def _bare(self, row: Sequence[int]) -> tuple[int, ...]:
        """The row with the first choice of every decision on recovery."""
        bare = list(row)
        for index in self._recoveries:
            bare[index] = 0
        return tuple(bare)

    def _promising(self, forecast: Forecast, solved: np.ndarray, generator: np.random.Generator, loss: Loss | None) -> np.ndarray:
        """Of the solved points and mutants around the measured front, the untried one with most promise; else a random one."""
        pool = np.vstack([solved, self._mutants(generator, solved)])
        pool = forecast.canonical(pool)
        fresh = np.array([row for row in dict.fromkeys(map(tuple, pool.tolist())) if not self._is_tried(row)], dtype=int)
        if not len(fresh):
            return np.array([generator.integers(count) for count in map(len, (domain.choices for domain in self.space.domains))])
        return self._recovered(forecast, fresh[int(np.argmax(self._promise(forecast, fresh, generator, loss)))])

    def _mutants(self, generator: np.random.Generator, solved: np.ndarray) -> np.ndarray:
        """Points one or two choices away from the measured front, or from the solved points before there is one."""
        parents = np.array([one.row for one in self._told.values() if one.done]) if any(o.done for o in self._told.values()) else solved
        if len(parents) > 64:
            parents = parents[-64:]
        found = parents[generator.integers(len(parents), size=MUTANTS)].copy()
        for row in found:
            for _ in range(generator.integers(1, 3)):
                domain = int(generator.integers(len(row)))
                row[domain] = generator.integers(self._counts[domain])
        own = [i for i, domain in enumerate(self.space.domains) if domain.technique == RECOVERY]
        found[:, own] = 0
        return found

    def _with_recovery(self, row: Sequence[int]) -> np.ndarray:
        """The row with the last choice of every decision on recovery, the most."""
        better = np.array(row)
        for index, domain in enumerate(self.space.domains):
            if domain.technique == RECOVERY:
                better[index] = len(domain.choices) - 1
        return better

    def _is_cut(self, row: Sequence[int]) -> bool:
        """Whether there is something to recover from: bits alone leave the network as it was."""
        whole = self._indices(self.space.identity())
        return any(
            int(mine) != int(its)
            for domain, mine, its in zip(self.space.domains, row, whole, strict=True)
            if domain.technique not in (RECOVERY, "bits")
        )

    def _recovered(self, forecast: Forecast, row: np.ndarray) -> np.ndarray:
        """The row with the most recovery, if without any its gap is expected to be worth that."""
        better = self._with_recovery(row)
        worth = float(forecast.gap(row[None])[0]) > WORTH and not self._is_tried(tuple(int(i) for i in better))
        return better if worth else row

    def _polish(self, forecast: Forecast) -> np.ndarray | None:
        """A measured point of the front, with more recovery than it had, where that is worth its time."""
        own = [i for i, domain in enumerate(self.space.domains) if domain.technique == RECOVERY]
        rows = []
        for one, _ in self._measured():
            better = self._with_recovery(one.row)
            if one.gap > WORTH and not self._is_tried(tuple(int(i) for i in better)):
                rows.append((better, one))
        if not own or not rows:
            return None
        relief = np.exp(forecast.fit_.relief)
        points = self._axes([one.gap * relief for _, one in rows], [one.costs for _, one in rows])
        return rows[int(np.argmax(self._gain(points)))][0]

    def _nearest(self, forecast: Forecast, solved: np.ndarray) -> np.ndarray | None:
        """The untried point within the limits on costs that is expected to be nearest to the original, with the least recovery or the
        most; None without such limits, or where none is expected to be nearer than what is measured. Who gives a budget wants the best file
        within it, which adds next to no hypervolume."""
        if not self._bounds:
            return None

        def score(rows: np.ndarray) -> np.ndarray:
            return np.log(np.maximum(forecast.gap(rows), 1e-12)) + STEEP * self._over(forecast, rows)

        best = solver.descend(score, solved[int(np.argmin(score(solved)))], self._counts)
        pool = forecast.canonical(np.vstack([best[None], solver.neighbours(best, self._counts)[0], solved]))
        pool = np.vstack([pool, *(self._with_recovery(row)[None] for row in pool if self._is_cut(row))])
        fresh = np.array([row for row in dict.fromkeys(map(tuple, pool.tolist())) if not self._is_tried(row)], dtype=int)
        fresh = fresh[self._over(forecast, fresh) <= MARGIN] if len(fresh) else fresh
        if not len(fresh):
            return None
        row = fresh[int(np.argmin(forecast.gap(fresh)))]
        known = min((gap for one, gap in self._measured() if one.feasible), default=np.inf)
        return row if forecast.gap(row[None])[0] < NEARER * known else None

    def _measured(self) -> list[tuple[Told, float]]:
        """(told end, gap) on the front of gap and costs, of those that keep the limits if there are any."""
        told = list(self._told.values())
        done = [(one, gap) for one, gap in zip(told, self._gaps(told), strict=True) if one.done and np.isfinite([gap, *one.costs]).all()]
        good = [pair for pair in done if pair[0].feasible] or done
        if not good:
            return []
        mask = pareto.front(self._axes([gap for _, gap in good], [one.costs for one, _ in good]))
        return [pair for pair, keep in zip(good, mask, strict=True) if keep]

    def _axes(self, gaps: Sequence[float], costs: Sequence[Sequence[float]], loss: Loss | None = None) -> np.ndarray:
        """(n, 1 + costs) logarithms, the gap within its floor and ceiling; with a ``loss`` the expected drop in the gap's place: below what
        users notice a smaller gap is worth little, and noise of the metric itself does not count."""
        gaps = np.clip(np.asarray(gaps, dtype=float), GAP_FLOOR, GAP_CEILING)
        lost = np.log(gaps) if loss is None else loss(gaps)
        return np.column_stack([lost, np.log(np.maximum(np.asarray(costs, dtype=float), 1e-12))])

    def _loss(self) -> Loss:
        """The drop that a gap stands for, by what was measured."""
        identity = tuple(int(i) for i in self._indices(self.space.identity()))
        whole = next((one.metric for one in self._told.values() if one.row == identity and np.isfinite(one.metric)), np.nan)
        seen = [one for one in self._told.values() if one.done and one.row != identity]
        drops = [(one.metric - whole) / max(abs(whole), 1e-12) for one in seen]
        return learned([min(one.gap, GAP_CEILING) for one in seen], drops, [one.used for one in seen])

    def _promise(self, forecast: Forecast, rows: np.ndarray, generator: np.random.Generator, loss: Loss | None) -> np.ndarray:
        """(n,) predicted gain of hypervolume, small where a limit will be broken; a little noise lets doubts be settled."""
        gaps = forecast.gap(rows) * np.exp(0.05 * generator.standard_normal(len(rows)))
        costs = np.array([self._calibrated(index, forecast.cost(name, rows)) for index, (name, _) in enumerate(self._costs)]).T
        gain = self._gain(self._axes(gaps, costs, loss), loss)
        if loss is not None and not gain.any():  # all are expected to lose too much
            gain = self._gain(self._axes(gaps, costs))
        return (gain + 1e-9) * self._allowed(forecast, rows, gaps)

    def _calibrated(self, index: int, predicted: np.ndarray) -> np.ndarray:
        """Predicted costs in the measured unit, where forecast and measurement differ by a factor (throughput, memory)."""
        now = self._count, self._ready[0]
        if self._factors.get("of") != now:
            self._factors = {"of": now}
        if index not in self._factors:
            self._factors[index] = self._factor(index)
        return predicted * self._factors[index]

    def _factor(self, index: int) -> float:
        """The median of measured over predicted of a cost."""
        told = [one for one in self._told.values() if np.isfinite(one.costs[index])][-200:]
        if not told:
            return 1.0
        rows, costs = np.array([one.row for one in told]), np.array([one.costs[index] for one in told])
        return float(np.median(costs / np.maximum(self._ready[1].cost(self._costs[index][0], rows), 1e-12)))

    def _allowed(self, forecast: Forecast, rows: np.ndarray, gaps: np.ndarray) -> np.ndarray:
        """(n,) 1 where all limits are expected to hold, falling off beyond."""
        factor = np.exp(-STEEP * self._over(forecast, rows))
        edge = self._edge()
        return factor if edge is None else factor * np.exp(-np.maximum(0.0, np.log(gaps / edge)) * 2)

    def _over(self, forecast: Forecast, rows: np.ndarray) -> np.ndarray:
        """(n,) by how much the costs are expected to be above the limits less a margin, in sum of logarithms."""
        over = np.zeros(len(rows))
        for name, bound in self._bounds.items():
            over += np.maximum(0.0, np.log(np.maximum(forecast.cost(name, rows), 1e-12) / max(bound, 1e-12)) + MARGIN)
        return over

    def _edge(self) -> float | None:
        """The gap at which the allowed drop is used up, as results tell it; None as long as none lost more."""
        inside = [one.gap for one in self._told.values() if one.done and one.faithful and np.isfinite(one.gap)]
        outside = [one.gap for one in self._told.values() if one.done and not one.faithful and np.isfinite(one.gap)]
        if not outside:
            return None
        cuts = sorted({*inside, *outside})
        wrong = [sum(gap > cut for gap in inside) + sum(gap <= cut for gap in outside) for cut in cuts]
        return cuts[int(np.argmin(wrong))] * 1.1

    def _gain(self, points: np.ndarray, loss: Loss | None = None) -> np.ndarray:
        """(n,) hypervolume that each point adds to what is measured and asked."""
        corner = self._axes([GAP_CEILING], [self._corner()])[0]
        corner[0] = corner[0] if loss is None else loss.most
        measured = self._measured()
        base = (
            self._axes([gap for _, gap in measured], [one.costs for one, _ in measured], loss) if measured else np.empty((0, len(corner)))
        )
        forecast = self._ready[1]
        if self._pending:
            rows = np.array(list(self._pending.values()))
            costs = np.array([self._calibrated(i, forecast.cost(name, rows)) for i, (name, _) in enumerate(self._costs)]).T
            base = np.vstack([base, self._axes(forecast.gap(rows), costs, loss)])
        whole = pareto.hypervolume(base, corner)
        gains = np.zeros(len(points))
        for index, point in enumerate(points):
            if not len(base) or not (base <= point).all(1).any():
                gains[index] = pareto.hypervolume(np.vstack([base, point]), corner) - whole
        return gains

    def _corner(self) -> list[float]:
        """Costs just above those of the untouched model, or of the worst that was seen."""
        identity = self.space.identity()
        row = self._indices(identity)[None]
        return [REFERENCE_COST * float(self._calibrated(i, self._ready[1].cost(name, row))[0]) for i, (name, _) in enumerate(self._costs)]

    def _indices(self, point: Point) -> np.ndarray:
        return np.array(self.space.places(point))

    def _point(self, row: np.ndarray) -> dict[str, Any]:
        return {domain.name: domain.choices[int(choice)] for domain, choice in zip(self.space.domains, row, strict=True)}
