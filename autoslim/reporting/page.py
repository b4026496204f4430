"""report.html: one file that opens offline. Texts and tables are written here, so that the page reads without its script; the script
draws charts and answers clicks. The page's own policy forbids every request and every script but those that were written into it."""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoslim import __version__
from autoslim.reporting import ablation, words
from autoslim.reporting.context import Material
from autoslim.reporting.contributions import contributions
from autoslim.reporting.importances import explained, sensitivities
from autoslim.reporting.layers import layer_rows
from autoslim.reporting.page_data import for_script, page_data
from autoslim.reporting.singles import singles_of
from autoslim.reporting.summary import where_time_went

HERE = Path(__file__).resolve().parent.parent
TEMPLATES, CHARTS = HERE / "templates", HERE / "assets" / "echarts" / "echarts.min.js"
#: rows of a long list on the page; the tables beside it hold all
MOST_ENDS, MOST_LAYERS, MOST_IMPORTANT = 100, 400, 25


def render(
    material: Material,
    summary: Mapping[str, Any],
    volumes: Sequence[float],
    charts: Mapping[str, Any],
    cards: Sequence[Mapping[str, Any]],
    live: str = "",
) -> str:
    """The page as text. ``live`` is a version that a served page compares with the server's to know when it is out of date."""
    chosen, context = material.chosen, material.context
    singles = singles_of(material)
    entry = material.points[chosen["key"]] if chosen else None
    workers = max((run.get("slots", 1) for run in material.fact("runs") or []), default=1)
    data = page_data(material, summary, volumes) | {"live": live}
    return fill(
        "report.html",
        data,
        ("report.js",),
        live=live,
        summary=summary,
        rows=sorted(material.rows, key=lambda row: -row["latency_ratio"]),
        answer=words.answer(summary, material.rows, context),
        asides=words.asides(summary, material.rows),
        tiles=tiles(chosen, context) if chosen else [],
        axes=data["axes"],
        chosen=chosen,
        metric=context["metric_name"],
        layers=layer_rows(material, singles, charts["layer_map"], entry.point if entry else {}),
        columns=charts["layer_map"]["columns"],
        most_layers=MOST_LAYERS,
        contributions=contributions(material, singles, entry) if entry else [],
        ablation=ablation.shown(material),
        sensitivities=sensitivities(singles)[:MOST_IMPORTANT],
        explained=ranked(explained(material)),
        phases=bars(where_time_went(summary["seconds"], workers)),
        workers=workers,
        ends=ends(material),
        reasons=reasons(material),
        most_ends=MOST_ENDS,
        cards=in_order(cards, material.rows, chosen),
        changes=changes(cards, chosen),
        coverage=material.fact("coverage"),
        notes=[*context["notes"], *(f"rival {label} is not shown: {why}" for label, why in material.no_rivals.items())],
        context=context,
        untouched=context["untouched"].as_dict(),
        identity=material.fact("identity") or {},
        weights=material.fact("untouched_sha256"),
        command=words.command_line(summary["command"]),
        seed=context["spec"].get("seed"),
        gap_words=words.GAP,
    )


def fill(template: str, data: Any, scripts: Sequence[str], **values: Any) -> str:
    """A template with its style, data and scripts inside; every text is escaped, every script is named in the policy by its hash."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["score"] = words.score
    sources = [CHARTS.read_text(encoding="utf-8"), *((TEMPLATES / name).read_text(encoding="utf-8") for name in scripts)]
    policy = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" for source in sources)
    return environment.get_template(template).render(
        **values,
        version=__version__,
        policy=policy,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        data=Markup(for_script(data)),
        scripts=[Markup(source) for source in sources],
    )


def tiles(row: Mapping[str, Any], context: Mapping[str, Any]) -> list[dict[str, str]]:
    """The chosen point in four figures: {"value", "label", "known"}."""

    def span(name: str, form: str, unit: str = "") -> str:
        return "" if row[f"{name}_low"] is None else f"{format(row[f'{name}_low'], form)} to {format(row[f'{name}_high'], form)}{unit}"

    times = "" if row["latency_ratio_low"] is None else f"{1 / row['latency_ratio_high']:.1f} to {1 / row['latency_ratio_low']:.1f}\u00d7"
    digits = max(0, 2 - math.floor(math.log10(row["latency_ms"]))) if row["latency_ms"] > 0 else 2

    return [
        {"value": f"{1 / row['latency_ratio']:.1f}\u00d7" if row["latency_ratio"] else "", "label": "as fast as untouched", "known": times},
        {"value": f"{row['latency_ms']:.{digits}f} ms", "label": "latency (median)", "known": span("latency_ms", f".{digits}f", " ms")},
        {"value": f"{1 / row['size_ratio']:.1f}\u00d7", "label": "smaller", "known": f"{row['size_bytes'] / 1000:,.0f} kB, counted exactly"},
        {"value": words.score(row, "metric_test"), "label": f"{context['metric_name']} ({row['test_split']})", "known": span("metric_test", f".{words.places(row)}f")},
        {"value": words.score(row, "drop_test", "+"), "label": "drop against untouched", "known": span("drop_test", f"+.{words.places(row)}f")},
    ]  # fmt: skip


def in_order(
    cards: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The cards as the table of points has its rows, slowest first, but the chosen one before all; "told": its figures in a line."""
    known = {row["key"]: row for row in rows}
    found = sorted(cards, key=lambda card: (card["key"] != (chosen or {}).get("key"), -known[card["key"]]["latency_ratio"], card["name"]))
    return [dict(card) | {"told": in_short(known[card["key"]])} for card in found]


def in_short(row: Mapping[str, Any]) -> str:
    return f"{row['latency_ratio']:.3f} of the time, {row['size_bytes'] / 1000:,.0f} kB, {row['metric']} {words.score(row, 'metric_test')}"


def bars(values: Mapping[str, float]) -> list[tuple[str, float, float]]:
    """(name, value, share of the largest), the largest first."""
    most = max(values.values(), default=0.0) or 1.0
    return [(name, value, value / most) for name, value in sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))]


def ranked(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """One row per decision: {"domain", "shares": {objective: share}}, the most telling first."""
    total: Counter[str] = Counter()
    for shares in found.values():
        total.update(shares)
    return [
        {"domain": name, "shares": {objective: shares.get(name, 0.0) for objective, shares in found.items()}}
        for name, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_IMPORTANT]
    ]


def ends(material: Material) -> list[Mapping[str, Any]]:
    return [row for row in material.trials if row["end"] in ("failed", "rejected") and row["cached_from"] is None]


def reasons(material: Material) -> list[tuple[str, str, int]]:
    """(end, rung or reason, how many)."""
    counted = Counter((row["end"], row["rung"] or row["reason"] or "") for row in ends(material))
    return [(end, why, count) for (end, why), count in sorted(counted.items(), key=lambda pair: (-pair[1], pair[0]))]


def changes(cards: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """What verification found of classes and robustness for the chosen point; what it did not look at is empty."""
    found = next((card["changes"] for card in cards if chosen and card["key"] == chosen["key"]), None)
    return found and {"classes": [], "checks": [], "outputs": [], "not_measured": [], **found}
