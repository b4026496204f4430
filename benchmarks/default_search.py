"""The default search from the outside: duration, candidates, verified points, memory, the controller's share, the rivals.

Run: ``python benchmarks/default_search.py [OUT]`` (about three minutes; the machine should be idle). Prints its own table and the
goals; exits with 1 if one is missed. OUT, a folder that is not there yet, keeps the study.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main(kept: Path | None = None) -> int:
    """Search, print the figures and the goals; exit status 1 if a goal is missed."""
    with tempfile.TemporaryDirectory() as folder:
        out = kept or Path(folder) / "out"
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "autoslim", "search", "--budget-ms", "20", "--out", str(out), "--quiet"], check=False)
        spent = time.monotonic() - begun
        summary = json.loads((out / "summary.json").read_text())
        with (out / "front.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    best = summary["best"]
    runs = summary["seconds"]
    mild = sum(float(row["size_ratio"]) >= 1 / 8 for row in rows)
    checks = [
        ("exit status", done.returncode, "0", done.returncode == 0),
        ("seconds, all in", round(spent, 1), "<= 180", spent <= 180),
        ("candidates evaluated", summary["evaluations"], ">= 40", summary["evaluations"] >= 40),
        ("verified points, 1x to 8x smaller", mild, ">= 10", mild >= 10),
        (
            "smallest verified file, ratio",
            round(min(float(row["size_ratio"]) for row in rows), 4),
            "<= 0.125",
            min(float(row["size_ratio"]) for row in rows) <= 0.125,
        ),
        ("controller share of the run", round(runs["controller"] / runs["total"], 4), "< 0.05", runs["controller"] < 0.05 * runs["total"]),
        ("memory of the search, GB", round(summary["peak_bytes_of_run"] / 1e9, 2), "< 2", summary["peak_bytes_of_run"] < 2e9),
        *against_rivals(rows),
    ]
    print(told("recommended", best))
    print(f"{'what':<32}{'measured':>12}  {'goal':<22}met")
    for name, value, goal, met in checks:
        print(f"{name:<32}{value:>12}  {goal:<22}{'yes' if met else 'NO'}")
    return 0 if all(met for *_, met in checks) else 1


def against_rivals(rows: list[dict[str, str]]) -> list[tuple[str, str, str, bool]]:
    """A line per uniform rival: whether a verified point of the search is faster, smaller and at least as accurate on test data, all three."""
    own = [row for row in rows if row["label"] in ("", "corner") and row["feasible"] == "True"]
    found = []
    for rival in rows:
        if not rival["label"].startswith("uniform"):
            continue
        better = [
            row
            for row in own
            if float(row["latency_ratio_high"]) < float(rival["latency_ratio_low"])
            and float(row["size_ratio"]) < float(rival["size_ratio"])
            and float(row["drop_test"]) <= float(rival["drop_test"])
        ]
        print(told(rival["label"], rival))
        if better:
            print(told("  beaten in all three by", min(better, key=lambda row: float(row["latency_ratio"]) * float(row["size_ratio"]))))
        found.append((f"points beating {rival['label']}", str(len(better)), ">= 1", bool(better)))
    return found


def told(name: str, row: dict[str, str]) -> str:
    """A point in a line: time, bytes and accuracy against the untouched model, with intervals."""
    low, high = (float(row[f"drop_test_{end}"]) for end in ("low", "high"))
    return (
        f"{name:<24} time {float(row['latency_ratio']):.3f}, bytes {float(row['size_ratio']):.4f}, "
        f"drop {float(row['drop_test']):+.4f} ({low:+.4f} to {high:+.4f})"
    )


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
