"""A card per point: what it is, what was done, how good it is and how well that is known, how to load it, what it is not."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoslim.candidate import Done
from autoslim.clock import sha256
from autoslim.recipe import describe, to_yaml
from autoslim.reporting.context import Material

#: how a shipped file runs without AutoSlim, by its ending; five lines that run as they stand beside the file
SNIPPETS = {
    ".onnx": """\
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])
feed = {{i.name: np.zeros([n if isinstance(n, int) else 1 for n in i.shape], "float32" if "float" in i.type else "int64") for i in session.get_inputs()}}
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
    outcome: Done = material.by_key[row["key"]].outcome
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
        "limits": limits(material, row),
        "target": row["target"],
        "threads": row["threads"],
        "batch": row["batch"],
        "sha256": row["sha256"],
    }


def figures(row: Mapping[str, Any], context: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, 95 % interval) as texts."""
    found = []
    for name, text, form in (
        ("metric_test", f"{context['metric_name']} ({row['test_split']}, n = {row['n_test']})", ".5g"),
        ("drop_test", "drop against the untouched model", "+.5g"),
        ("latency_ms", "latency, ms (p50)", ".5g"),
        ("latency_ratio", "latency, ratio to the untouched model", ".5g"),
    ):
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        found.append((text, format(row[name], form), "" if low is None else f"{format(low, form)} to {format(high, form)}"))
    found.append(("latency, ms (p95)", format(row["latency_p95_ms"], ".5g"), ""))
    found.append(("bytes", str(row["size_bytes"]), "exact"))
    found += [
        (text, f"{row[name]:.0f}", "")
        for name, text in (
            ("macs", "multiply-accumulates"),
            ("params", "parameters"),
            ("peak_memory_bytes", "memory added to a process, bytes"),
        )
        if row.get(name) is not None
    ]
    found += [
        (name.removeprefix("metric_"), format(value, ".5g"), "") for name, value in row.items() if is_further(name) and value is not None
    ]
    return found


def is_further(name: str) -> bool:
    """Whether a column of front.csv is one of the task's further metrics."""
    return name.startswith("metric_") and name not in (
        "metric_direction", "metric_val", "metric_val_low", "metric_val_high", "metric_test", "metric_test_low", "metric_test_high"
    )  # fmt: skip


def rates(row: Mapping[str, Any], untouched: Any) -> list[tuple[str, float]]:
    """(what, share of the untouched model): how much of it is left."""
    found = [("file size", row["size_ratio"]), ("latency", row["latency_ratio"])]
    for name, text in (("params", "parameters"), ("macs", "multiply-accumulates"), ("peak_memory_bytes", "memory")):
        base = untouched.get(name)
        if base and row.get(name) is not None:
            found.append((text, row[name] / base))
    if row["drop_test"] is not None and untouched.get("metric"):
        found.append(("relative drop of the metric", row["drop_test"] / abs(untouched.get("metric"))))
    return found


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
        f"Latency and memory were measured on {machine.get('processor', 'one machine')}, {row['threads']} threads, batch {row['batch']}, "
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
    if not context["targets"]:
        said.append("The data has no targets: the metric is agreement with the original, not correctness.")
    if not row["feasible"]:
        said.append("It breaks a limit of the study.")
    said.append("Only the task's data was looked at: nothing is known of other inputs, of fairness, or of adversarial inputs.")
    said += [f"Not counted: {note}." for note in (material.fact("coverage") or {}).get("not_counted", [])[:5]]
    return said


def markdown(card: Mapping[str, Any]) -> str:
    """card.md."""
    lines = [f"# {card['name']}", "", f"{card['words']}. A compressed form of `{card['model']}`.", ""]
    if card["licence"]:
        lines += [f"Licence of the original: {card['licence']}.", ""]
    lines += ["| what | value | 95 % interval |", "|---|---|---|"] + [
        f"| {what} | {value} | {known} |" for what, value, known in card["figures"]
    ]
    lines += ["", "| share of the untouched model | |", "|---|---|"] + [f"| {what} | {value:.4f} |" for what, value in card["rates"]]
    lines += ["", f"Runtime {card['target']}, {card['threads']} threads, batch {card['batch']}. SHA-256 `{card['sha256']}`.", ""]
    lines += ["| file | SHA-256 |", "|---|---|"] + [f"| `{path}` | `{digest}` |" for path, digest in card["files"]]
    lines += ["", "To load it, in its folder:", "", "```python", card["snippet"], "```", ""]
    if card["changes"] and card["changes"].get("classes"):
        lines += ["| class | samples | untouched | this file |", "|---|---|---|---|"]
        lines += [
            f"| {item['class']} | {item['n']} | {item['untouched']:.4f} | {item['file']:.4f} |" for item in card["changes"]["classes"]
        ] + [""]
    lines += ["Limits:", ""] + [f"- {text}" for text in card["limits"]] + [""]
    if card["notes"]:
        lines += ["Notes:", ""] + [f"- {note}" for note in card["notes"]] + [""]
    return "\n".join([*lines, "Recipe:", "", "```yaml", card["recipe"], "```", ""])


def write_cards(material: Material, out: Path) -> list[dict[str, Any]]:
    """card.md beside each verified model; returns the cards' data."""
    cards = [card_of(material, row, out) for row in material.rows]
    for card, row in zip(cards, material.rows, strict=True):
        place = (out / row["model_file"]).with_name("card.md")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(markdown(card), encoding="utf-8")
    return cards
