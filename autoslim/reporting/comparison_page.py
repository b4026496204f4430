"""compare.html: the comparison of several studies on one page that opens offline, and the same as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from autoslim.reporting.comparison import Side, verdict_words
from autoslim.reporting.markdown import cell
from autoslim.reporting.page import fill
from autoslim.reporting.page_data import digits

COLUMNS = ("key", "label", "summary", "metric_test", "metric_test_low", "metric_test_high", "drop_test", "latency_ratio", "latency_ratio_low", "latency_ratio_high", "latency_ms", "size_ratio", "size_bytes")  # fmt: skip


def render(found: Sequence[Side], told: Mapping[str, Any]) -> str:
    """The page as text."""
    on_front = {(row["study"], row["key"]) for row in told["front"]}
    data = {
        "metric": told["metric"],
        "studies": [
            {
                "name": side.name,
                "points": [
                    {name: digits(row[name]) if isinstance(row[name], float) else row[name] for name in COLUMNS}
                    | {"front": (side.name, row["key"]) in on_front}
                    for row in side.material.offered
                ],
            }
            for side in found
        ],
    }
    return fill("compare.html", data, ("compare.js",), told=told, verdict=verdict_words(told), titles=TITLES)


TITLES = {"latency_ratio": "Budget on time, as a ratio to untouched", "size_ratio": "Budget on size, as a ratio to untouched"}


def markdown(told: Mapping[str, Any]) -> str:
    """The same for a pull request or a terminal."""
    lines = [
        cell(verdict_words(told)),
        *(text for note in told["notes"] for text in ("", cell(note))),
        "",
        "| study | timed on | points | hypervolume | 95 % | recommended | time ratio | size ratio | drop |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for study in told["studies"]:
        known, best = study["hypervolume"], study["best"]
        lines.append(
            f"| {cell(study['name'])} | {cell(study['timed_on'])} | {study['points']} | {known['value']:.4f} | {known['low']:.4f} to {known['high']:.4f} | `{best['key'][:8]}` | "
            f"{best['latency_ratio']:.3f} | {best['size_ratio']:.3f} | {best['drop_test']:+.{told['metric']['places']}f} |"
        )
    for cost, ranges in told["winners"].items():
        lines += ["", f"{TITLES[cost]}:", ""]
        lines += [
            f"- {span(row)}: {cell(row['winner'])}, {cell(told['metric']['name'])} {row['metric_test']:.{told['metric']['places']}f}{sure(row)}"
            for row in ranges
        ]
    if told["differences"]:
        lines += ["", "What differed:", ""]
        lines += [f"- {cell(str(row['what']))}: {cell(' / '.join(str(value) for value in row['values']))}" for row in told["differences"]]
    if told["points"]:
        names = [study["name"] for study in told["studies"]]
        lines += ["", "Points that are not on every study's own front (dominated: verified there, but off its front):", ""]
        lines += [f"| point | {' | '.join(map(cell, names))} | what was done |", "|---|" + "---|" * (len(names) + 1)]
        lines += [f"| `{row['key'][:8]}` | {' | '.join(map(cell, row['where']))} | {cell(row['summary'])} |" for row in told["points"]]
    return "\n".join([*lines, ""])


def span(row: Mapping[str, Any]) -> str:
    return f"{row['from']:.3g} to {row['to']:.3g}" if row["to"] is not None else f"from {row['from']:.3g}"


def sure(row: Mapping[str, Any]) -> str:
    """How a winner stands to the second, in words."""
    if row["second"] is None:
        return ", equal" if row["tied"] else ", the only one"
    return f", ahead of {cell(row['second'])}" + ("" if row["certain"] else " by less than the intervals tell")
