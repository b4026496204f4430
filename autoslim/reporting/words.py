"""What a report says in sentences: the answer, what limits it, how to have it again."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.budget import LIMITS
from autoslim.metrics import loss_sign
from autoslim.recommending import offered

#: what a limit is called in a sentence, and the unit that it is told in
PLAIN = {"ms": ("latency", " ms"), "mb": ("file size", " MB"), "macs": ("multiply-accumulates", ""), "memory_mb": ("memory", " MB")}

#: files that a sentence names
MOST_NAMED = 5

#: what the gap is, for those who meet the word on a page; docs/numbers.md has it in full
GAP = "KL divergence in nats between class scores, relative squared error between other outputs"


def answer(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], context: Mapping[str, Any]) -> str:
    """The result in one sentence, with its certainty."""
    budget = ", ".join(limit_words(name, bound, summary["time_share"]) for name, bound in summary["budget"].items() if bound is not None)
    if summary["max_drop"] is not None:
        budget = ", ".join(filter(None, [budget, f"drop <= {summary['max_drop']:.4g}"]))
    chosen = summary["best"]
    if chosen is None:
        near = summary["closest"]
        if near is None:
            return "No candidate was verified."
        itself = ", the untouched model itself," if near["label"] == "untouched" else ""
        return (
            f"No candidate meets {budget}: the closest{itself} runs in {near['latency_ms']:.3g} ms ({near['latency_ratio']:.2f} of the untouched model's time) "
            f"with {near['size_bytes'] / 1000:.0f} kB and {context['metric_name']} {score(near, 'metric_test')}."
        )
    above = over_the_limit(chosen, summary["max_drop"])
    return (
        f"{'Within ' + budget + ': the' if budget else 'The'} recommended file is {speed(chosen)} and takes {chosen['size_ratio']:.2f} of its bytes "
        f"({chosen['size_bytes'] / 1000:.0f} kB), for {article(context['metric_name'])} "
        f"{context['metric_name']} of {score(chosen, 'metric_test')} on {chosen['n_test']} {chosen['test_split']} samples, a drop of {test_drop(chosen)}."
        + (f" {above}" if above else "")
    )


def speed(row: Mapping[str, Any]) -> str:
    """How much faster than the untouched file, with its interval where one is known, and the time of one run."""
    known = (
        ""
        if row["latency_ratio_low"] is None
        else f"95 % interval {1 / row['latency_ratio_high']:.1f} to {1 / row['latency_ratio_low']:.1f}; "
    )
    return f"{1 / row['latency_ratio']:.1f} times as fast as the untouched model ({known}{row['latency_ms']:.3g} ms a run)"


def places(row: Mapping[str, Any]) -> int:
    """Digits behind the point that a metric is told with, the same in all rows of a study: four, and more where the untouched model's own score
    on test data is so small that four would hide it."""
    before = abs(row["metric_test"] - row["drop_test"] * loss_sign(row["metric_direction"]))
    # a power of ten that rounding left a little less is that power of ten, else rows of one study would differ in digits
    return max(4, min(12, 3 - math.floor(math.log10(before) + 1e-9))) if before > 0 else 4


def score(row: Mapping[str, Any], name: str, sign: str = "") -> str:
    """A column of a row of front.csv that is in the metric's unit, as text; ``sign`` "+" shows it always."""
    return f"{row[name]:{sign}.{places(row)}f}"


def test_drop(row: Mapping[str, Any]) -> str:
    """The drop on test data with its interval, where one is known."""
    if row["drop_test_low"] is None:
        return score(row, "drop_test", "+")
    return f"{score(row, 'drop_test', '+')} (95 % interval {score(row, 'drop_test_low', '+')} to {score(row, 'drop_test_high', '+')})"


def over_the_limit(row: Mapping[str, Any], allowed: float | None) -> str:
    """A sentence where the drop on test data is above the limit, which is held against validation data; else empty."""
    if allowed is None or row["drop_test"] <= allowed + 1e-9:
        return ""
    sure = row["drop_test_low"] is not None and row["drop_test_low"] > allowed
    return (
        f"Its drop on the {row['test_split']} data, {row['drop_test']:+.4g}, is above the limit of {allowed:.4g}"
        f"{', and so is its whole 95 % interval' if sure else ''}: the limit was held against validation data."
    )


def limit_words(name: str, bound: float, share: float | None) -> str:
    """One limit as a comparison; that on the time as a share where it was given as one."""
    if name == "ms" and share is not None:
        return f"latency <= {share:.4g} of the untouched model's"
    return f"{PLAIN[name][0]} <= {amount(name, bound)}"


def amount(name: str, value: float) -> str:
    """A value of what a limit is on (a key of LIMITS), in the unit that the limit is told in."""
    return f"{value / LIMITS[name][1]:.4g}{PLAIN[name][1]}"


def article(name: str) -> str:
    return "an" if name[:1].lower() in "aeiou" else "a"


def asides(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know besides: limits that do not bind and what tighter ones would give, limits that cannot be met."""
    said = unmet(summary, rows)
    for name in summary["already_met_by_untouched"]:
        measured = LIMITS[name][0]
        better = tighter(rows, measured)
        text = (
            f"The limit on {PLAIN[name][0]} does not bind: the untouched model already meets it; the search improved the other objectives."
        )
        if better:
            offers = [better[0], better[len(better) // 2]]  # the least, and one in between
            text += (
                " A tighter one would give: "
                + "; ".join(
                    f"{amount(name, row[measured])} with {row['metric']} {score(row, 'metric_test')}"
                    for row in {row["key"]: row for row in offers}.values()
                )
                + "."
            )
        said.append(text)
    if any(row["test_split"] == "val" for row in rows):
        said.append("The task has no test split: the figures below come from the validation data that the search selected on.")
    return said + slower(rows)


def is_slower(row: Mapping[str, Any]) -> bool:
    """Whether a file takes longer than the untouched one beyond doubt."""
    return row["latency_ratio_low"] is not None and row["latency_ratio_low"] > 1 and row["label"] != "untouched"


def slower(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence that names the files that are slower than the untouched one."""
    found = sorted(filter(is_slower, rows), key=lambda row: -row["latency_ratio"])
    if not found:
        return []
    named = ", ".join(f"{point_name(row)} ({row['latency_ratio']:.3g} of its time)" for row in found[:MOST_NAMED])
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return [f"Slower than the untouched model on this machine: {named}{more}; their cards say which layers."]


def unmet(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each limit on a cost that every verified file breaks, with the least of it that was measured."""
    said = []
    for name, bound in summary.get("budget", {}).items():
        share = summary["time_share"] if name == "ms" else None
        column, limit = ("latency_ratio", share) if share is not None else (LIMITS[name][0], bound)
        found = [(row[high], row) for row in offered(rows) if row.get(high := f"{column}_high" if name == "ms" else column) is not None]
        if limit is None or not found or min(high for high, _ in found) <= limit:
            continue
        least = min((row for _, row in found), key=lambda row: row[column])
        told = f"{least[column]:.4g} of the untouched model's time" if share is not None else amount(name, least[column])
        said.append(
            f"No verified file meets {limit_words(name, bound, share)}: {told} is the least measured ({point_name(least)}); no bound is proven."
        )
    return said


def tighter(rows: Sequence[Mapping[str, Any]], measured: str) -> list[Mapping[str, Any]]:
    """Points found by the search, the least of ``measured`` first, of which no verified point has both no more of it and no worse metric."""
    rows = offered(rows)
    found: list[Mapping[str, Any]] = []
    sign = loss_sign(rows[0]["metric_direction"]) if rows else 1
    for row in sorted((row for row in rows if row.get(measured)), key=lambda row: (row[measured], row["metric_test"] * sign)):
        if not found or row["metric_test"] * sign < found[-1]["metric_test"] * sign:
            found.append(row)
    return [row for row in found if row["label"] == ""]


def point_name(row: Mapping[str, Any]) -> str:
    """What a point is called in text: its label, else the first digits of its key."""
    return row["label"] or row["key"][:8]


def command_line(command: Sequence[str] | None) -> str:
    """The command of the latest run, fit for a shell."""
    return shlex.join(command or [])
