"""What a report says in sentences: the answer, what limits it, how to have it again."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.budget import LIMITS
from autoslim.metrics import METRICS


def answer(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], context: Mapping[str, Any]) -> str:
    """The result in one sentence, with its certainty."""
    budget = ", ".join(
        f"{METRICS[LIMITS[name][0]].name} <= {bound / LIMITS[name][1]:.4g}{' MB' if LIMITS[name][1] == 1e6 else ' ms' if name == 'ms' else ''}"
        for name, bound in summary["budget"].items()
    )
    if summary["max_drop"] is not None:
        budget = ", ".join(filter(None, [budget, f"drop <= {summary['max_drop']:.4g}"]))
    chosen = summary["best"]
    if chosen is None:
        near = summary["closest"]
        if near is None:
            return "No candidate was verified."
        return (
            f"No candidate meets {budget}: the closest runs in {near['latency_ms']:.3g} ms ({near['latency_ratio']:.2f} of the untouched model's time) "
            f"with {near['size_bytes'] / 1000:.0f} kB and {context['metric_name']} {near['metric_test']:.4f}."
        )
    interval = ""
    if chosen["drop_test_low"] is not None:
        interval = f" (95 % interval {chosen['drop_test_low']:+.4f} to {chosen['drop_test_high']:+.4f})"
    return (
        f"{'Within ' + budget + ': the' if budget else 'The'} recommended file runs in {chosen['latency_ratio']:.2f} of the untouched model's time "
        f"({chosen['latency_ms']:.3g} ms) and takes {chosen['size_ratio']:.2f} of its bytes ({chosen['size_bytes'] / 1000:.0f} kB), for {article(context['metric_name'])} "
        f"{context['metric_name']} of {chosen['metric_test']:.4f} on {chosen['n_test']} {chosen['test_split']} samples, a drop of {chosen['drop_test']:+.4f}{interval}."
    )


def article(name: str) -> str:
    return "an" if name[:1].lower() in "aeiou" else "a"


def asides(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know besides: limits that do not bind and what tighter ones would give, limits that cannot be met."""
    said = []
    for name in summary["already_met_by_untouched"]:
        measured = LIMITS[name][0]
        better = sorted((row for row in rows if row["label"] == "" and row.get(measured)), key=lambda row: row[measured])
        text = f"The limit on {measured} does not bind: the untouched model already meets it; the search improved the other objectives."
        if better:
            offers = [better[0], better[len(better) // 2]]
            text += (
                " A tighter one would give: "
                + "; ".join(
                    f"{measured} {row[measured]:.4g} with {row['metric']} {row['metric_test']:.4f}"
                    for row in {row["key"]: row for row in offers}.values()
                )
                + "."
            )
        said.append(text)
    if any(row["test_split"] == "val" for row in rows):
        said.append("The task has no test split: the figures below come from the validation data that the search selected on.")
    return said


def point_name(row: Mapping[str, Any]) -> str:
    """What a point is called in text: its label, else the first digits of its key."""
    return row["label"] or row["key"][:8]


def command_line(command: Sequence[str] | None) -> str:
    """The command of the latest run, fit for a shell."""
    return shlex.join(command or [])
