"""Synthetic studies through the real Study class: what a search would have left behind, without any network."""

import contextlib
import json
import math
import os
from pathlib import Path

import numpy as np

from autoslim import recommending, tables
from autoslim.budget import Budget, Drop, Limit
from autoslim.candidate import Done, Failed, Rejected
from autoslim.forecast import Tables
from autoslim.metrics import Measurement, Value
from autoslim.recipe import Recipe
from autoslim.space import Domain, SearchSpace
from autoslim.study import Study

PHASES = {"preparation": 8.0, "tables": 20.0, "search": 50.0, "verification": 20.0, "report": 1.0}

OBJECTIVES = ("metric", "latency_ms", "size_bytes")
BASE_MS, BASE_BYTES, BASE_MACS, BASE_PARAMS, BASE_METRIC = 10.0, 4_000_000, 50_000_000, 1_000_000, 0.95
SHARES = (1.0, 0.75, 0.5, 0.25)


def space_of(layers):
    """Two decisions per layer: channels and bits; a layer's name may be anything."""
    domains = []
    for name in layers:
        domains.append(Domain(f"channels:{name}", "channels", SHARES, ((), *(((name, int(32 * share)),) for share in SHARES[1:])), True))
        domains.append(Domain(f"bits:{name}", "bits", (32, 8), ((), ((name, 8),))))
    return SearchSpace(tuple(domains), {"distill_steps": 0})


def law(point, layers):
    """(metric, ms, bytes, macs) of a point: each layer's share of time falls with its channels and bits, its loss grows."""
    keep = [point[f"channels:{name}"] for name in layers]
    small = [point[f"bits:{name}"] == 8 for name in layers]
    ms = BASE_MS * float(np.mean([share * (0.6 if bit else 1.0) for share, bit in zip(keep, small, strict=True)]))
    size = BASE_BYTES * float(np.mean([share * (0.25 if bit else 1.0) for share, bit in zip(keep, small, strict=True)]))
    loss = float(np.mean([(1 - share) ** 2 * (1 + i / len(layers)) for i, share in enumerate(keep)])) * 0.2 + 0.002 * float(np.mean(small))
    return BASE_METRIC - loss, ms, size, BASE_MACS * float(np.mean(keep))


def measured(metric, ms, size, macs, half=0.02):
    """A measurement with intervals of 2 % on the latency."""
    return Measurement(
        {
            "metric": Value(metric, metric - 0.01, metric + 0.01),
            "latency_ms": Value(ms, ms * (1 - half), ms * (1 + half)),
            "latency_ratio": Value(ms / BASE_MS, ms / BASE_MS * (1 - half), ms / BASE_MS * (1 + half)),
            "throughput": Value(1000 / ms),
            "size_bytes": Value(int(size)),
            "macs": Value(int(macs)),
            "params": Value(int(BASE_PARAMS * macs / BASE_MACS)),
        },
        facts={"samples": 1000, "gap": max(1e-6, BASE_METRIC - metric), "threads": 1, "batch": 1},
    )


def facts(study, layers, space, budget, max_drop, identity, environment):
    """Everything that a search stores about a study as a whole."""
    study.use(space)
    study.set_fact("identity", {"task": "t0", "weights": "w0", "runtime": "onnxruntime_cpu", "threads": 1, "part": "", **identity})
    study.set_fact("untouched_sha256", "0" * 64)
    study.set_fact("untouched", measured(BASE_METRIC, BASE_MS, BASE_BYTES, BASE_MACS).as_dict())
    names = [{"name": name, "kind": "Conv2d", "params": 1000, "macs": 1000, "out": 32, "inputs": 32, "kernel": [3, 3], "groups": 1, "calls": 1, "order": i} for i, name in enumerate(layers)]  # fmt: skip
    groups = [{"name": name, "size": 32, "found_by": "rule", "producers": [name], "layers": [name]} for name in layers]
    coverage = {
        "params": BASE_PARAMS, "macs": BASE_MACS, "layers": names, "groups": groups, "blocks": [], "tied": [], "left_out": {layers[-1]: f"why {layers[-1]}"},
        "not_counted": [], "techniques": {"channels": {"units": len(layers), "params_share": 1.0, "macs_share": 1.0}},
    }  # fmt: skip
    study.set_fact("coverage", coverage)
    study.set_fact("model", {"metric_name": "top-1 accuracy", "metric_direction": "max", "targets": True, "notes": [], "task": "tasks.py", "task_args": {}, "target": "onnxruntime_cpu", "licence": "MIT"})  # fmt: skip
    study.set_fact("environment", {"processor": "a processor", "versions": {"autoslim": "0.1.0"}, **environment})
    study.set_fact("prepare_seconds", {"analysis": 1.0, "baseline": 2.0})
    study.set_fact("command", ["autoslim", "search", "--task", "tasks.py"])
    study.set_fact("spec", {"objectives": list(OBJECTIVES), "budget": {name: [limit.amount, limit.relative] for name, limit in budget.limits.items()}, "max_drop": max_drop, "seed": 7, "strategy": "frontier"})  # fmt: skip
    study.set_fact(
        "tables",
        {
            "domains": [[d.name, [str(c) for c in d.choices]] for d in space.domains],
            "tables": singles(layers, space).as_dict(),
            "seconds": 1.0,
        },
    )
    study.set_fact(
        "runs", [{"seconds": 100.0, "controller_seconds": 1.0, "stopped": "trials", "slots": 2, "peak_bytes": 1000, "phases": PHASES}]
    )


def singles(layers, space):
    """Tables in which channels scale a layer's work and bytes, and bits its bytes and speed."""
    count = len(layers)
    loss, shares = {}, {}
    for domain in space.domains:
        place = layers.index(domain.name.partition(":")[2])
        found = {kind: np.ones((len(domain.choices), count)) for kind in ("macs", "bytes", "slow")}
        for row, choice in enumerate(domain.choices):
            if domain.technique == "channels":
                found["macs"][row, place] = found["bytes"][row, place] = choice
            elif choice == 8:
                found["bytes"][row, place], found["slow"][row, place] = 0.25, 0.6
        shares[domain.name] = found
        loss[domain.name] = np.array([0.01 * row * (place + 1) for row in range(len(domain.choices))])
    ones = np.ones(count)
    return Tables(tuple(layers), ones * BASE_MACS / count, ones * BASE_BYTES / count, ones * BASE_MS / count, 0.0, 0.0, loss, shares)


def verified_row(entry, number, test, ms, size, noise=0.0):
    """What a verifier would have found."""
    half = 0.03
    return {
        "latency_ms": {"value": ms, "low": ms * (1 - half), "high": ms * (1 + half)},
        "latency_ratio": {"value": ms / BASE_MS, "low": ms / BASE_MS * (1 - half), "high": ms / BASE_MS * (1 + half)},
        "throughput": {"value": 1000 / ms, "low": None, "high": None},
        "latency_p95_ms": ms * 1.2, "pairs": 100, "converged": True, "rounds": 6, "split": "test", "n": 1000,
        "metric": {"value": test, "low": test - 0.008, "high": test + 0.008},
        "drop": {"value": BASE_METRIC - test, "low": BASE_METRIC - test - 0.005, "high": BASE_METRIC - test + 0.005},
        "others": {}, "peak_memory_bytes": 2e7 + size, "size_bytes": int(size), "sha256": f"{number:064d}", "key": entry.key, "number": number,
        "model_file": f"models/{entry.key}/model.onnx", "recipe_file": f"models/{entry.key}/recipe.yaml",
    }  # fmt: skip


@contextlib.contextmanager
def without_waiting_for_the_disk():
    """The journal is flushed to the disk after every line; a test's journal need not survive a power cut."""
    flush, os.fsync = os.fsync, lambda descriptor: None
    try:
        yield
    finally:
        os.fsync = flush


@without_waiting_for_the_disk()
def make(folder, trials=40, layers=("stem", "body.0", "body.1", "head"), verify=8, budget=None, max_drop=None, seed=0, storage=None, identity=None,
         environment=None, better=0.0, name="synthetic", loss=None):  # fmt: skip
    """A finished study in ``folder``; returns it, opened for reading. ``better`` makes every file faster by that share; ``loss`` takes the place of
    what the results tell of drops by gaps."""
    layers = list(layers)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    space, limits = space_of(layers), Budget(budget or {"ms": Limit(6.0, False)}, Drop(*max_drop) if max_drop else None)
    study = Study.open(folder, name, ["max", "min", "min"], storage)
    untouched = measured(BASE_METRIC, BASE_MS, BASE_BYTES, BASE_MACS)
    facts(study, layers, space, limits, max_drop, identity or {}, environment or {})
    generator = np.random.default_rng(seed)
    points = [(space.identity(), "untouched"), (space.strongest(), "corner"), (space.uniform(bits=9), "uniform-int8")]
    while len(points) < trials:
        points.append(({domain.name: domain.choices[int(generator.integers(len(domain.choices)))] for domain in space.domains}, ""))
    seen = {}
    for number, (point, label) in enumerate(points[:trials]):
        recipe = space.decode(point) if label != "untouched" else Recipe()
        metric, ms, size, macs = law(point, layers)
        ms = ms if label == "untouched" else ms * (1 - better)
        found = measured(metric, ms, size, macs)
        study.ask(point, recipe, label, {"forecast": {"latency_ms": ms * 1.05, "size_bytes": size, "gap": 0.01}} if not label else None)
        broken = limits.violations(found, untouched, "max")
        seconds = {"compress": 0.1, "recover": 1.0, "export": 0.2, "score": 0.1, "time": 0.5}
        cached = seen.get(recipe.key)
        if cached is None and not label and number % 11 == 5:
            outcome = Failed("export", f"the runtime refused <script>alert({number})</script>", {"compress": 0.1})
        elif cached is None and not label and number % 13 == 7:
            small = Measurement({name: found.values[name] for name in ("size_bytes", "macs", "params")})
            outcome = Rejected("predicted", small, {**broken, "ms": 0.5}, recipe, {"compress": 0.1})
        else:
            outcome = Done(found, broken, f"candidates/{recipe.key}/model.onnx", f"{number:064d}", recipe, seconds, ("a note",))
            seen.setdefault(recipe.key, number)
        study.tell(number, outcome, ["ms"], OBJECTIVES, cached)
    verify_some(study, untouched, verify, limits)
    found = recommending.law_of(study.entries(), {"untouched": untouched, "metric_direction": "max"})
    study.set_fact(recommending.FACT, loss or found)
    study.close()
    return Study.read(folder, name, storage)


def verify_some(study, untouched, most, limits):
    """Rows of verification for the labelled trials and the front; the test metric differs a little from validation."""
    entries = [entry for entry in study.entries() if isinstance(entry.outcome, Done) and entry.cached_from is None]
    front = tables.select_front(entries, untouched, list(OBJECTIVES), "max", most)
    chosen = {entry.key: entry for entry in [entry for entry in entries if tables.is_rival(entry)] + front}
    rows = []
    for entry in chosen.values():
        found = entry.outcome.measurement
        test = found.get("metric") + (0.0 if entry.label == "untouched" else 0.001 * math.sin(entry.number))
        rows.append(verified_row(entry, entry.number, test, found.get("latency_ms"), found.get("size_bytes")))
    study.set_fact("verified", json.loads(json.dumps(rows)))
