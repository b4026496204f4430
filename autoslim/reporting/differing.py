"""What differed between studies that stand on one page: settings, machine, layers, and the points of their fronts. Values are compared whole and
shortened only where they are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from autoslim import pareto
from autoslim.reporting.context import Material

#: texts up to this length are shown whole; of longer ones so much, from just before the first place where they differ
LONGEST, SHOWN, BEFORE = 200, 160, 40


def differences(materials: Sequence[Material]) -> list[dict[str, Any]]:
    """{"what", "values": one per study} of everything about the runs that is not the same in all."""
    told = [flat(facts_of(material)) for material in materials]
    rows = {name: [facts.get(name) for facts in told] for name in sorted({name for facts in told for name in facts})}
    return [{"what": name, "values": shortened(values)} for name, values in rows.items() if any(value != values[0] for value in values[1:])]


def facts_of(material: Material) -> dict[str, Any]:
    """The settings and the machine of a study."""
    spec = {name: value for name, value in material.context["spec"].items() if name not in ("name", "task_args")}
    identity = material.fact("identity") or {}
    return {
        "study": spec,
        "timed on": material.context["target"],
        "weights": identity.get("weights"),
        "threads timed": identity.get("threads"),
        "machine": material.fact("environment") or {},
        "layers": [layer["name"] for layer in (material.fact("coverage") or {}).get("layers", [])],
        "search space": material.fact("space"),
        "strategy's single choices": material.fact("tables") is not None,
    }


def flat(data: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Nested mappings as one level with whole texts, so that two can be compared line by line."""
    found: dict[str, str] = {}
    for name, value in data.items():
        where = f"{before}{name}"
        found |= flat(value, f"{where}: ") if isinstance(value, Mapping) else {where: str(value)}
    return found


def shortened(values: Sequence[str | None]) -> list[str | None]:
    """The texts fit for a table: where one is too long, all from just before the first place where they differ."""
    texts = [value for value in values if value is not None]
    if all(len(text) <= LONGEST for text in texts):
        return list(values)
    shortest = min(len(text) for text in texts)
    place = next((i for i in range(shortest) if len({text[i] for text in texts}) > 1), shortest if len(texts) > 1 else 0)
    start = max(0, place - BEFORE)

    def cut(text: str) -> str:
        piece = text[start : start + SHOWN]
        return f"{'...' * (start > 0)}{piece}{'...' * (start + SHOWN < len(text))} ({len(text)} characters)"

    return [None if value is None else cut(value) for value in values]


def points(materials: Sequence[Material]) -> list[dict[str, Any]]:
    """{"key", "summary", "where": one word per study} of each recipe that is on some study's own verified front but not on every one's; the word is
    "front", "dominated" (verified, another point of that study is better in all) or "" (not among its verified points)."""
    rows = [{row["key"]: row for row in material.offered} for material in materials]
    fronts = [own_front(material) for material in materials]
    keys = dict.fromkeys(key for front in fronts for key in front)
    found = []
    for key in keys:
        where = ["front" if key in front else "dominated" if key in known else "" for front, known in zip(fronts, rows, strict=True)]
        if any(word != "front" for word in where):
            row = next(known[key] for known in rows if key in known)
            found.append({"key": key, "summary": row["label"] or row["summary"], "where": where})
    return found


def own_front(material: Material) -> list[str]:
    """Keys of the study's verified rows that none of its own dominates in drop on test data, time and size, fastest first."""
    rows = sorted(material.offered, key=lambda row: (row["latency_ratio"], row["key"]))
    mask = pareto.front(np.array([(row["drop_test"], row["latency_ratio"], row["size_ratio"]) for row in rows]))
    return [row["key"] for row, kept in zip(rows, mask, strict=True) if kept]


def notes(materials: Sequence[tuple[str, Material]]) -> list[str]:
    """What a reader must keep in mind, as sentences."""
    said = []
    devices = {name: material.context["target"] for name, material in materials}
    if len(set(devices.values())) > 1:
        told = ", ".join(f"{name} on {device}" for name, device in devices.items())
        said.append(f"Times were taken on several devices ({told}): each ratio is to the study's own untouched model on its own device.")
    versions = {name: ((material.fact("environment") or {}).get("versions") or {}).get("onnxruntime") for name, material in materials}
    if len(set(versions.values())) > 1:
        told = ", ".join(f"{name} with {version or 'an unknown one'}" for name, version in versions.items())
        said.append(f"The versions of onnxruntime differ: {told}.")
    unknown = [name for name, material in materials if fingerprint(material) is None]
    if unknown:
        said.append(f"It is unknown whether the test data are the same: {', '.join(unknown)} recorded no fingerprint of them.")
    return said


def fingerprint(material: Material) -> str | None:
    """Of the test samples that the untouched file was verified on; None where none was recorded."""
    row = next(row for row in material.rows if row["label"] == "untouched")
    return material.verified[row["key"]].get("data")
