"""A card per point: what it is, what was done, how good it is and how well that is known, how to load it, what it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.candidate import Done
from autoslim.clock import sha256
from autoslim.host import counted_threads
from autoslim.metrics import loss_sign
from autoslim.recipe import describe, to_yaml
from autoslim.reporting.context import Material
from autoslim.reporting.markdown import cell
from autoslim.reporting.words import is_slower, places

#: how a shipped file runs without AutoSlim, by its ending; five lines that run as they stand beside the file
SNIPPETS = {
    ".onnx": """\
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
feed = {{i.name: np.zeros([n if isinstance(n, int) else 1 for n in i.shape], "float32" if i.type == "tensor(float)" else i.type[7:-1]) for i in session.get_inputs()}}
print([output.shape for output in session.run(None, feed)])""",
    ".pt2": """\
import torch
program = torch.export.load("{file}")
inputs, keywords = program.example_inputs
with torch.inference_mode():
    print(program.module()(*inputs, **keywords))""",
}
ANY_SNIPPET = """\
from autoslim import plugins
from autoslim.task import load
task = load({task!r}, {task_args!r})
session = plugins.load("runtimes", {target!r}).open("{file}", {threads})
print(session.run(task.example_input()))"""


def card_of(material: Material, row: Mapping[str, Any], out: Path | None = None) -> dict[str, Any]:
    """Plain data of one card; ``out`` is the folder whose files get their SHA-256, those that are not there have none."""
    outcome: Done = material.points[row["key"]].outcome
    context, untouched = material.context, material.context["untouched"]
    return {
        "key": row["key"],
        "name": row["label"] or row["key"],
        "anchor": f"card-{row['key']}",
        "model": context["task"],
        "licence": context.get("licence"),
        "words": describe(outcome.recipe),
        "feasible": row["feasible"],
        "figures": figures(row, context),
        "rates": rates(row, untouched),
        "files": files(row, out),
        "snippet": snippet(row, context),
        "recipe": to_yaml(outcome.recipe).rstrip(),
        "notes": list(outcome.notes),
        "changes": material.verified[row["key"]].get("changes"),
        "kernels": running(material.verified[row["key"]].get("changes")),
        "limits": limits(material, row),
        "target": row["target"],
        "threads": row["threads"],
        "batch": row["batch"],
        "sha256": row["sha256"],
    }


def figures(row: Mapping[str, Any], context: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, 95 % interval) as texts."""
    found = []
    score = f".{places(row)}f"
    for name, text, form in (
        ("metric_test", f"{context['metric_name']} ({row['test_split']}, n = {row['n_test']})", score),
        ("drop_test", "drop against the untouched model", f"+{score}"),
        ("latency_ms", "latency, ms (median, p50)", ".4g"),
        ("latency_ratio", "latency, ratio to the untouched model", ".4f"),
    ):
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        found.append((text, format(row[name], form), "" if low is None else f"{format(low, form)} to {format(high, form)}"))
    found.append(("latency, ms (95th percentile, p95)", format(row["latency_p95_ms"], ".4g"), ""))
    found.append(("bytes", f"{row['size_bytes']:,}", "exact"))
    found += [
        (text, f"{row[name]:,.0f}", "")
        for name, text in (
            ("macs", "multiply-accumulates"),
            ("params", "parameters"),
            ("peak_memory_bytes", "memory added to a process, bytes"),
        )
        if row.get(name) is not None
    ]
    if row.get("energy_mj") is not None:
        low, high = row.get("energy_mj_low"), row.get("energy_mj_high")
        found.append(("energy of one run, mJ", format(row["energy_mj"], ".4g"), "" if low is None else f"{low:.4g} to {high:.4g}"))
    found += [
        (name.removeprefix("metric_"), format(value, ".5g"), "") for name, value in row.items() if is_further(name) and value is not None
    ]
    return found


def is_further(name: str) -> bool:
    """Whether a column of front.csv is one of the task's further metrics."""
    return name.startswith("metric_") and name not in (
        "metric_direction", "metric_val", "metric_val_low", "metric_val_high", "metric_test", "metric_test_low", "metric_test_high"
    )  # fmt: skip


def rates(row: Mapping[str, Any], untouched: Any) -> list[tuple[str, float | None, float]]:
    """(what, share of the untouched model that is left, rate), the rate as (before - after) / before; that of the metric is what was lost of
    the untouched model's test score, negative where the file is better."""
    found = []
    for text, left in (("parameters", share(row, untouched, "params")), ("compute (multiply-accumulates)", share(row, untouched, "macs"))):
        found += [] if left is None else [(text, left, 1 - left)]
    before = row["metric_test"] - row["drop_test"] * loss_sign(row["metric_direction"])
    if before:
        found.append((f"{row['metric']}, drop", None, row["drop_test"] / abs(before)))
    found += [("file size", row["size_ratio"], 1 - row["size_ratio"]), ("latency", row["latency_ratio"], 1 - row["latency_ratio"])]
    for text, left in (("memory", share(row, untouched, "peak_memory_bytes")), ("energy", share(row, untouched, "energy_mj"))):
        found += [] if left is None else [(text, left, 1 - left)]
    return found


def share(row: Mapping[str, Any], untouched: Any, name: str) -> float | None:
    """What is left of a cost; None where one of the two was not measured."""
    base = untouched.get(name)
    return row[name] / base if base and row.get(name) is not None else None


def files(row: Mapping[str, Any], out: Path | None) -> list[tuple[str, str]]:
    """(path below the output folder, SHA-256); the model's is the one that was verified."""
    found = [(row["model_file"], row["sha256"])]
    recipe = None if out is None else out / row["recipe_file"]
    found.append((row["recipe_file"], sha256(recipe) if recipe is not None and recipe.is_file() else ""))
    return found


def snippet(row: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Five lines of Python that load and run the file, from its own folder."""
    file = Path(row["model_file"]).name
    text = SNIPPETS.get(Path(file).suffix, ANY_SNIPPET)
    return text.format(file=file, task=context["task"], task_args=dict(context["task_args"]), target=row["target"], threads=row["threads"])


def limits(material: Material, row: Mapping[str, Any]) -> list[str]:
    """What the figures do not say, as sentences."""
    checked, context = material.verified[row["key"]], material.context
    machine = material.fact("environment") or {}
    said = [
        f"Latency and memory were measured on {machine.get('processor', 'one machine')}, {counted_threads(row['threads'])}, batch {row['batch']}, "
        f"{row['target']}; other machines, batches and threads give other figures."
    ]
    if not checked.get("converged", True):
        said.append("Its latency ratio was still uncertain by more than 3 % when timing ended; see the interval.")
    if row["test_split"] == "val":
        said.append("The task has no test split: the metric comes from the data that the search selected on.")
    if row["drop_test_low"] is None:
        said.append("No interval is known for the metric.")
    elif row["drop_test_low"] <= 0 <= row["drop_test_high"]:
        said.append(f"On {row['n_test']} samples the drop cannot be told from none.")
    if is_slower(row):
        said.append(f"It is slower than the untouched model here: {row['latency_ratio']:.3g} of its time.")
    if row["label"] != "untouched" and "checks" not in (checked.get("changes") or {}):
        said.append("It was not run on changed inputs (noise and the like): how robust it is was not measured.")
    if not context["targets"]:
        said.append("The data has no targets: the metric is agreement with the original, not correctness.")
    if row["outside"]:
        said.append("It is a trivial rival and no point of the search space: shown for comparison, never recommended.")
    if not row["feasible"]:
        said.append("It breaks a limit of the study.")
    said.append("Only the task's data was looked at: nothing is known of other inputs, of fairness, or of adversarial inputs.")
    said += [f"Not counted: {note}." for note in (material.fact("coverage") or {}).get("not_counted", [])[:5]]
    return said


def markdown(card: Mapping[str, Any]) -> str:
    """card.md."""
    lines = [f"# {cell(card['name'])}", "", f"{cell(card['words'])}. A compressed form of {cell(card['model'])}.", ""]
    if card["licence"]:
        lines += [f"Licence of the original: {cell(card['licence'])}.", ""]
    lines += ["| what | value | 95 % interval |", "|---|---|---|"] + [
        f"| {cell(what)} | {value} | {known} |" for what, value, known in card["figures"]
    ]
    lines += ["", "| against the untouched model | left | rate, (before - after) / before |", "|---|---|---|"] + [
        f"| {cell(what)} | {'' if left is None else f'{left:.4f}'} | {rate:+.2%} |" for what, left, rate in card["rates"]
    ]
    lines += [
        "",
        f"Runtime {cell(card['target'])}, {counted_threads(card['threads'])}, batch {card['batch']}. SHA-256 `{card['sha256']}`.",
        "",
    ]
    lines += ["| file | SHA-256 |", "|---|---|"] + [f"| `{path}` | `{digest}` |" for path, digest in card["files"]]
    lines += ["", "To load it, in its folder:", "", "```python", card["snippet"], "```", ""]
    lines += classes(card["changes"] or {})
    lines += changed(card["changes"] or {})
    lines += [line for text in card["kernels"] for line in (cell(text), "")]
    lines += ["Limits:", ""] + [f"- {cell(text)}" for text in card["limits"]] + [""]
    if card["notes"]:
        lines += ["Notes:", ""] + [f"- {cell(note)}" for note in card["notes"]] + [""]
    return "\n".join([*lines, "Recipe:", "", "```yaml", card["recipe"], "```", ""])


def classes(changes: Mapping[str, Any]) -> list[str]:
    """The table of classes, of a point that was looked at so."""
    if not changes.get("classes"):
        return []
    lines = ["| class | samples | untouched | this file | drop | 95 % interval |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {cell(str(it['class']))} | {it['n']} | {it['untouched']:.4f} | {it['file']:.4f} | {it['drop']:+.4f} | "
        f"{it['low']:+.4f} to {it['high']:+.4f} |"
        for it in changes["classes"]
    ]
    return [*lines, ""]


def changed(changes: Mapping[str, Any]) -> list[str]:
    """Lines on outputs and on changed inputs, of a point that was looked at so."""
    outputs = [
        f"{cell(it['what'])}: {it['value']:.5g} ({it['low']:.5g} to {it['high']:.5g}, n = {it['n']})."
        for it in changes.get("outputs") or []
    ]
    lines = [line for text in outputs for line in (text[0].upper() + text[1:], "")]
    if changes.get("checks"):
        lines += ["| check | strength | n | untouched | this file | drop | 95 % interval |", "|---|---|---|---|---|---|---|"]
        for check in changes["checks"]:
            for row in check["rows"]:
                known = "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
                figures = f"{row['untouched']:.4f} | {row['file']:.4f} | {row['drop']:+.4f} | {known}"
                lines.append(f"| {cell(check['title'])} | {cell(str(row['level']))} | {row['n']} | {figures} |")
        lines.append("")
    return [*lines, *(f"Not measured: {cell(text)}." for text in changes.get("not_measured") or []), ""] if lines else lines


def running(changes: Mapping[str, Any] | None) -> list[str]:
    """Sentences on a file's kernels: how many of the layers that were meant as integers are, which run in float, which are slower than the
    untouched model's."""
    found = (changes or {}).get("kernels")
    if not found:
        return []
    said = [f"{found['integer']} of {found['meant']} layers that were meant as integers run as integers."]
    return said + [f"{one['layer']} {one['kernel']}".rstrip() + f": {one['what']}; {one['fix']}." for one in found["layers"]]


def write_cards(material: Material, out: Path) -> list[dict[str, Any]]:
    """card.md beside each verified model; returns the cards' data."""
    cards = [card_of(material, row, out) for row in material.rows]
    for card, row in zip(cards, material.rows, strict=True):
        place = (out / row["model_file"]).with_name("card.md")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(markdown(card), encoding="utf-8")
    return cards
