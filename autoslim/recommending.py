"""Which verified file to recommend: by validation data and verified costs. Needs neither torch nor a model."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoslim import tables
from autoslim.candidate import Done
from autoslim.losses import learned
from autoslim.metrics import loss_sign
from autoslim.study import Entry

Row = Mapping[str, Any]
#: fact of a study: {"root", "line"} of the drop that a gap stands for, as all results told it at the last verification
FACT = "loss"


def law_of(entries: Sequence[Entry], context: Mapping[str, Any]) -> dict[str, float]:
    """The value of FACT, from the results of a study."""
    done = [entry.outcome.measurement for entry in entries if isinstance(entry.outcome, Done) and entry.cached_from is None]
    known = [one for one in done if one.facts.get("gap") is not None and one.get("metric") is not None]
    base, sign = context["untouched"].get("metric"), loss_sign(context["metric_direction"])
    found = learned([one.facts["gap"] for one in known], [(one.get("metric") - base) * sign / max(abs(base), 1e-12) for one in known])
    return {"root": found.root, "line": found.line}


def offered(rows: Sequence[Row]) -> list[Row]:
    """The rows that may be recommended, picked and counted: all but rivals outside of the search space."""
    return [row for row in rows if not row.get("outside")]


def best(rows: Sequence[Row], context: Mapping[str, Any]) -> Row | None:
    """The row to recommend among the feasible, by validation data and verified costs: of those :func:`within_one_error` that are also
    :func:`within_expectation` the one with the smallest product of the costs that are objectives. None without a feasible row. Rivals outside
    of the search space are never recommended."""
    near = within_expectation(within_one_error([row for row in offered(rows) if row["feasible"]]), context)
    return min(near, key=lambda row: cost(row, context)) if near else None


def within_expectation(rows: Sequence[Row], context: Mapping[str, Any]) -> list[Row]:
    """The rows whose expected drop is within the limit on the drop, else the one with the least; all where there is no limit, or no expectation.
    The cheapest of many files that break no limit on a few hundred samples is often a lucky one."""
    limit = context["budget"].max_drop
    if limit is None or not rows:
        return list(rows)
    most = limit.resolve(context["untouched"].get("metric"))
    return [row for row in rows if expected(row) <= most + 1e-12] or [min(rows, key=expected)]


def expected(row: Row) -> float:
    """The expected drop of a row; the one on validation data where none is known."""
    return row["drop_val"] if row.get("drop_expected") is None else row["drop_expected"]


def within_one_error(rows: Sequence[Row]) -> list[Row]:
    """The rows within one standard error of the best metric on validation data (Breiman et al. 1984, the one-SE rule)."""
    return as_good(rows, 1.0)


def within_interval(rows: Sequence[Row]) -> list[Row]:
    """The rows within the 95 % interval of the best metric on validation data."""
    return as_good(rows, 1.96)


def as_good(rows: Sequence[Row], errors: float) -> list[Row]:
    """The rows within so many standard errors of the best metric on validation data; none wide where the metric has no interval."""
    if not rows:
        return []
    sign = loss_sign(rows[0]["metric_direction"])
    top = min(rows, key=lambda row: row["metric_val"] * sign)
    spread = (top["metric_val_high"] - top["metric_val_low"]) / (2 * 1.96) if top["metric_val_high"] is not None else 0.0
    return [row for row in rows if (row["metric_val"] - top["metric_val"]) * sign <= errors * spread + 1e-12]


def cost(row: Row, context: Mapping[str, Any]) -> float:
    """Product of the row's costs in units of the untouched model, over the objectives of the study."""
    ratios = {"latency_ms": row["latency_ratio"], "throughput": row["latency_ratio"], "size_bytes": row["size_ratio"]}
    total = 1.0
    for name in context["objectives"]:
        if name != "metric":
            base = context["untouched"].get(name)
            total *= ratios.get(name, row[name] / base if base else 1.0)
    return total


def closest(rows: Sequence[Row], context: Mapping[str, Any]) -> Row | None:
    """The row that breaks the limits least, in sum; no rival outside of the search space."""

    def broken(row: Row) -> float:
        return sum(max(0.0, amount) for amount in tables.violations_of(row, context["budget"], context["untouched"]).values())

    return min(offered(rows), key=broken, default=None)
