"""The verdict of `autoslim check` as Markdown for people and JUnit for machines."""

import re
import xml.etree.ElementTree as xml
from typing import Any

from autoslim.budget import LIMITS, RATIO
from autoslim.recipe import to_yaml
from autoslim.reporting.markdown import cell

UNITS = {"ms": (1.0, "ms"), "mb": (1e6, "MB"), "macs": (1.0, "MACs"), "memory_mb": (1e6, "MB"), "max_drop": (1.0, "")}
#: colours and cursor moves of a terminal (ECMA-48, 5.4), and characters that XML 1.0 (2.2) does not allow
NOT_TEXT = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def legible(text: str) -> str:
    """The text without what a terminal obeys and XML refuses."""
    return NOT_TEXT.sub("", text)


def rows(verdict: Any) -> list[dict[str, str]]:
    """One row of texts per limit: {"limit", "measured", "known", "bound", "holds"}."""
    found = []
    for limit in verdict.limits:
        factor, unit = (1.0, "of untouched") if limit.share else UNITS[limit.name]

        def text(value: float | None, factor: float = factor, unit: str = unit) -> str:
            if value is None:
                return "not measured"
            return f"{value / factor:.5g} {unit}".rstrip()

        found.append(
            {
                "limit": "drop on the test split" if limit.name == "max_drop" else RATIO if limit.share else LIMITS[limit.name][0],
                "measured": text(limit.value),
                "known": "" if limit.low is None else f"{text(limit.low)} to {text(limit.high)}",
                "bound": "a share of what was not measured" if limit.bound is None else text(limit.bound),
                "holds": "yes" if limit.holds else "no",
            }
        )
    return found


def sentence(verdict: Any) -> str:
    """The verdict in one line."""
    if verdict.reason:
        return f"does not hold: no file could be made ({legible(verdict.reason)}){vain(verdict)}"
    mended = f" after a repair, {verdict.tried} recipes tried" if verdict.repaired else ""
    if verdict.holds:
        return f"holds{mended}: {verdict.words}"
    broken = ", ".join(f"{row['limit']} {row['measured']} (limit {row['bound']})" for row in rows(verdict) if row["holds"] == "no")
    return f"does not hold: {broken}{vain(verdict)}"


def vain(verdict: Any) -> str:
    """How many repairs were tried where none was found."""
    return f"; no repair was found among {verdict.tried - 1} neighbours" if verdict.tried > 1 else ""


def markdown(verdict: Any) -> str:
    """For a pull request or a job's summary."""
    lines = [f"**The recipe {cell(sentence(verdict))}.**", ""]
    if verdict.limits:
        lines += ["| limit | measured | 95 % interval | bound | holds |", "|---|---|---|---|---|"]
        lines += [
            f"| {cell(row['limit'])} | {row['measured']} | {row['known']} | {row['bound']} | {row['holds']} |" for row in rows(verdict)
        ]
        lines.append("")
    if verdict.row:
        metric = verdict.row["metric"]
        lines += [
            f"{cell(verdict.metric_name)} {metric['value']:.4f} on {verdict.row['n']} {verdict.row['split']} samples, "
            f"{verdict.row['latency_ratio']['value']:.3f} of the untouched model's time, {verdict.row['size_bytes']} bytes, SHA-256 `{verdict.row['sha256']}`.",
            "",
        ]
    if verdict.repaired:
        lines += ["The repaired recipe:", "", "```yaml", to_yaml(verdict.recipe).rstrip(), "```", ""]
    return "\n".join(lines)


def junit(verdict: Any, name: str) -> str:
    """JUnit XML: one test case per limit, and one for the file itself."""
    cases = rows(verdict)
    broken = [row for row in cases if row["holds"] == "no"]
    suite = xml.Element(
        "testsuite",
        name=f"autoslim check {legible(name)}",
        tests=str(len(cases) + 1),
        failures=str(len(broken) + bool(verdict.reason)),
        errors="0",
    )
    made = xml.SubElement(suite, "testcase", classname="autoslim.check", name="the file is made and opens")
    if verdict.reason:
        xml.SubElement(made, "failure", message=legible(verdict.reason))
    for row in cases:
        case = xml.SubElement(suite, "testcase", classname="autoslim.check", name=row["limit"])
        if row["holds"] == "no":
            xml.SubElement(
                case, "failure", message=f"{row['measured']}, limit {row['bound']}"
            ).text = f"95 % interval: {row['known'] or 'none'}"
    xml.indent(suite)
    return xml.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
