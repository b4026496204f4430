"""Study -> files: summary, tables, figures, cards and one HTML page. A pure function of the record; needs no torch."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoslim import hindsight, plugins, tables
from autoslim.budget import LIMITS, Budget, Drop, Limit, feasible
from autoslim.candidate import Done
from autoslim.metrics import METRICS, Measurement, Value
from autoslim.recipe import describe, to_yaml
from autoslim.study import Entry, Study

TEMPLATES = Path(__file__).parent / "templates"


def context_of(study: Study) -> dict[str, Any]:
    """What the tables need besides the entries, all from the record."""
    model, spec = study.fact("model"), study.fact("spec")
    limits = {name: Limit(*value) for name, value in spec["budget"].items()}
    untouched = Measurement.from_dict(study.fact("untouched"))
    if untouched.get("peak_memory_bytes") is None:  # measured in verification where the search had no need of it
        verified = next(
            (row for row in study.fact("verified") or [] if row["latency_ratio"] and row["sha256"] == study.fact("untouched_sha256")), None
        )
        if verified is not None:
            untouched = replace(untouched, values={**untouched.values, "peak_memory_bytes": Value(verified["peak_memory_bytes"])})
    return {
        **model,
        "untouched": untouched,
        "spec": spec,
        "objectives": spec["objectives"],
        "budget": Budget(limits, Drop(*spec["max_drop"]) if spec["max_drop"] else None),
    }


def write(study: Study, out: Path) -> dict[str, Any]:
    """Write everything into ``out`` and return the summary. Same study, same bytes of every table."""
    out.mkdir(parents=True, exist_ok=True)
    context = context_of(study)
    entries = judged_entries(study, context)
    by_key = done_by_key(entries)
    rows = front_rows(study)
    trials = [tables.trial_row(entry) for entry in entries]
    tables.frame(rows, tables.FRONT_COLUMNS).to_csv(out / "front.csv", index=False, lineterminator="\n")
    tables.frame(trials, tables.TRIAL_COLUMNS).to_csv(out / "trials.csv", index=False, lineterminator="\n")
    summary = summarise(study, entries, rows, context)
    (out / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for row in rows:
        write_card(out, row, by_key[row["key"]].outcome, context)
    figures = draw(out, study, rows, trials, summary, context, by_key, entries)
    page(out, study, rows, trials, summary, context, figures, by_key)
    return summary


def judged_entries(study: Study, context: Mapping[str, Any]) -> list[Entry]:
    """The record's entries, judged by the budget that holds now, rivals named."""
    return tables.labelled(tables.rejudged(study.entries(), context))


def done_by_key(entries: Sequence[Entry]) -> dict[str, Entry]:
    """The trial that was really evaluated, per key."""
    return {entry.key: entry for entry in reversed(entries) if isinstance(entry.outcome, Done) and entry.cached_from is None}


def front_rows(study: Study) -> list[dict[str, Any]]:
    """The rows of front.csv, from the record."""
    context = context_of(study)
    by_key = done_by_key(judged_entries(study, context))
    return [tables.front_row(by_key[row["key"]], row, context) for row in study.fact("verified") or [] if row["key"] in by_key]


def history(entries: Sequence[Entry], context: Mapping[str, Any]) -> list[float]:
    """Hypervolume after each evaluation, over the feasible candidates on validation data."""
    found: list[Measurement] = []
    volumes: list[float] = []
    for entry in entries:
        if entry.cached_from is not None or entry.outcome is None:
            continue
        if isinstance(entry.outcome, Done) and feasible(entry.outcome.violations):
            found.append(entry.outcome.measurement)
            volumes.append(tables.hypervolume(found, context["untouched"], context["objectives"], context["metric_direction"]))
        else:
            volumes.append(volumes[-1] if volumes else 0.0)
    return volumes


def summarise(study: Study, entries: Sequence[Entry], rows: Sequence[Mapping[str, Any]], context: Mapping[str, Any]) -> dict[str, Any]:
    """The content of summary.json."""
    budget, untouched, runs = context["budget"], context["untouched"], study.fact("runs") or []
    chosen = tables.best(rows, context)
    good = [row for row in rows if row["feasible"]]
    done = [entry.outcome for entry in entries if isinstance(entry.outcome, Done) and feasible(entry.outcome.violations)]
    fastest = min(rows, key=lambda row: row["latency_ms"], default=None)
    broken = budget.violations(untouched, untouched, context["metric_direction"])
    return {
        "schema_version": tables.SCHEMA_VERSION,
        "study": study.name,
        "feasible": chosen is not None,
        "best": chosen,
        "closest": None if chosen is not None else tables.closest([row for row in rows if row["label"] != "untouched"] or rows, context),
        "fastest_measured": fastest
        and {name: fastest[name] for name in ("key", "latency_ms", "latency_ms_high", "latency_ratio", "metric_test", "model_file")},
        "already_met_by_untouched": sorted(name for name, amount in broken.items() if amount <= 0 and name != "max_drop"),
        "budget": {name: budget.bound(name, untouched) for name in budget.limits},
        "max_drop": None if budget.max_drop is None else budget.max_drop.resolve(untouched.get("metric")),
        "verified": len(rows),
        "verified_feasible": len(good),
        "forecast": hindsight.quality(entries),
        "hypervolume": {
            "value": tables.hypervolume(
                (outcome.measurement for outcome in done), untouched, context["objectives"], context["metric_direction"]
            ),
            "reference": dict(zip(context["objectives"], tables.reference(context["objectives"]), strict=True)),
            "axes": "relative drop of the metric; costs as a ratio to the untouched model; validation data",
        },
        **tables.counts(entries),
        "stopped": runs[-1]["stopped"] if runs else "",
        "seconds": {
            "total": round(sum(run["seconds"] for run in runs), 2),
            "controller": round(sum(run["controller_seconds"] for run in runs), 3),
            "prepare": study.fact("prepare_seconds") or {},
            "candidates": tables.phase_seconds(entries),
        },
        "peak_bytes_of_run": max((run["peak_bytes"] or 0 for run in runs), default=0) or None,
        "environment": study.fact("environment"),
        "command": study.fact("command"),
    }


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


def write_card(out: Path, row: Mapping[str, Any], outcome: Done, context: Mapping[str, Any]) -> None:
    """card.md beside a model."""
    place = out / row["model_file"]
    lines = [f"# {row['label'] or row['key']}", "", describe(outcome.recipe), "", "| what | value | 95 % interval |", "|---|---|---|"]
    for name, text in (
        ("metric_test", context["metric_name"] + f" ({row['test_split']})"),
        ("drop_test", "drop against the untouched model"),
        ("latency_ms", "latency, ms (p50)"),
        ("latency_ratio", "latency, ratio to the untouched model"),
    ):
        low = row.get(f"{name}_low")
        lines.append(f"| {text} | {row[name]:.5g} | {'' if low is None else f'{low:.5g} to ' + format(row[name + '_high'], '.5g')} |")
    lines += [
        f"| bytes | {row['size_bytes']} | |",
        f"| multiply-accumulates | {row['macs']:.0f} | |",
        f"| parameters | {row['params']:.0f} | |",
        f"| memory added to a process, bytes | {row['peak_memory_bytes']:.0f} | |",
        "",
        f"Runtime {row['target']}, {row['threads']} threads, batch {row['batch']}. SHA-256 `{row['sha256']}`.",
        "",
    ]
    if outcome.notes:
        lines += ["Notes:", ""] + [f"- {note}" for note in outcome.notes] + [""]
    lines += ["Recipe:", "", "```yaml", to_yaml(outcome.recipe).rstrip(), "```", ""]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_name("card.md").write_text("\n".join(lines), encoding="utf-8")


def draw(
    out: Path,
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    trials: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    context: Mapping[str, Any],
    by_key: Mapping[str, Entry],
    entries: Sequence[Entry],
) -> dict[str, Path]:
    """{title: file} of every chart of the door."""
    bound = summary["budget"]
    limits = {"latency_ratio": bound["ms"] / context["untouched"].get("latency_ms")} if "ms" in bound else {}
    limits |= {"size_kb": bound["mb"] / 1000} if "mb" in bound else {}
    chosen = summary["best"] or summary["closest"]
    recipe = by_key[chosen["key"]].outcome.recipe.as_dict() if chosen else None
    data = {
        "front": rows,
        "trials": trials,
        "metric_name": context["metric_name"],
        "coverage": study.fact("coverage"),
        "chosen_recipe": recipe,
        "history": history(entries, context),
        "limits": limits,
    }
    figures = {}
    for name in plugins.names("charts"):
        chart = plugins.load("charts", name)
        path = out / "figures" / f"{name}.png"
        chart.ink(chart.numbers(data), path)
        figures[chart.title] = path
    return figures


def page(
    out: Path,
    study: Study,
    rows: Sequence[Mapping[str, Any]],
    trials: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    context: Mapping[str, Any],
    figures: Mapping[str, Path],
    by_key: Mapping[str, Entry],
) -> None:
    """report.html: one file, images inside, no request to anywhere; every text from the user's model is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    images = {title: base64.b64encode(path.read_bytes()).decode() for title, path in figures.items()}
    chosen = summary["best"] or summary["closest"]
    ends = [trial for trial in trials if trial["end"] in ("failed", "rejected")]
    html = environment.get_template("report.html").render(
        summary=summary,
        rows=sorted(rows, key=lambda row: -row["latency_ratio"]),
        answer=answer(summary, rows, context),
        asides=asides(summary, rows),
        images=images,
        coverage=study.fact("coverage"),
        notes=context["notes"],
        chosen=chosen,
        metric=context["metric_name"],
        recipe=to_yaml(by_key[chosen["key"]].outcome.recipe) if chosen else "",
        ends=ends,
        untouched=context["untouched"].as_dict(),
        task=context["task"],
        context=context,
    )
    (out / "report.html").write_text(html, encoding="utf-8")
