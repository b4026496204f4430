"""The report as Markdown, short enough for a comment under a pull request."""

from collections.abc import Mapping
from typing import Any

from autoslim.reporting import words
from autoslim.reporting.context import Material

#: rows of the table of points
MOST = 12


def render(material: Material, summary: Mapping[str, Any]) -> str:
    """The answer, what limits it, the points, and how to have it again."""
    rows, context = material.rows, material.context
    lines = [f"### {cell(material.name)}", "", cell(words.answer(summary, rows, context)), ""]
    lines += [f"> {cell(text)}\n" for text in words.asides(summary, rows)]
    if rows:
        split = rows[0]["test_split"]
        lines += [
            f"| point | {cell(context['metric_name'])} ({split}) | drop (95 %) | time ratio (95 %) | ms | kB | what was done |",
            "|---|---|---|---|---|---|---|",
        ]
        shown = sorted(rows, key=lambda row: -row["latency_ratio"])
        lines += [point(row, summary) for row in shown[:MOST]]
        if len(shown) > MOST:
            lines += ["", f"{len(shown) - MOST} more points are in front.csv."]
        lines.append("")
    counts = ", ".join(f"{count} {why}" for why, count in {**summary["rejected"], **summary["failed"]}.items())
    lines += [
        f"{summary['evaluations']} evaluations in {summary['seconds']['total']:.0f} s, hypervolume {summary['hypervolume']['value']:.4f}"
        + (f"; rejected or failed: {counts}" if counts else "")
        + ".",
        "",
        f"`{words.command_line(summary['command'])}`",
        "",
    ]
    return "\n".join(lines)


def point(row: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """One row of the table; the recommended point in bold."""
    chosen = summary["best"] or summary["closest"]
    name = cell(words.point_name(row))
    name = f"**{name}**" if chosen and row["key"] == chosen["key"] else name
    drop = (
        "" if row["drop_test_low"] is None else f" ({words.score(row, 'drop_test_low', '+')} to {words.score(row, 'drop_test_high', '+')})"
    )
    return (
        f"| {name} | {words.score(row, 'metric_test')} | {words.score(row, 'drop_test', '+')}{drop} | {row['latency_ratio']:.3f} ({row['latency_ratio_low']:.3f} to "
        f"{row['latency_ratio_high']:.3f}) | {row['latency_ms']:.3g} | {row['size_bytes'] / 1000:.0f} | {cell(row['summary'])} |"
    )


def cell(text: str) -> str:
    """A text that stays one cell: nothing in it is markup."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
