"""The default search from the outside: duration, candidates, verified points, memory, the controller's share, the rivals.

Run: ``python benchmarks/default_search.py`` (about three minutes; the machine should be idle). Prints its own table and the
goals; exits with 1 if one is missed.
"""

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "autoslim", "search", "--budget-ms", "20", "--out", str(out), "--quiet"], check=False)
        spent = time.monotonic() - begun
        summary = json.loads((out / "summary.json").read_text())
        with (out / "front.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    best = summary["best"]
    int8 = next(row for row in rows if row["label"] == "uniform-int8")
    pruned = next(row for row in rows if row["label"] == "uniform-channels-0.5")
    runs = summary["seconds"]
    checks = [
        ("exit status", done.returncode, "0", done.returncode == 0),
        ("seconds, all in", round(spent, 1), "<= 180", spent <= 180),
        ("candidates evaluated", summary["evaluations"], ">= 40", summary["evaluations"] >= 40),
        ("verified points", len(rows), ">= 10", len(rows) >= 10),
        (
            "smallest verified file, ratio",
            round(min(float(row["size_ratio"]) for row in rows), 4),
            "<= 0.125",
            min(float(row["size_ratio"]) for row in rows) <= 0.125,
        ),
        ("controller share of the run", round(runs["controller"] / runs["total"], 4), "< 0.05", runs["controller"] < 0.05 * runs["total"]),
        ("memory of the search, GB", round(summary["peak_bytes_of_run"] / 1e9, 2), "< 2", summary["peak_bytes_of_run"] < 2e9),
        (
            "best: latency ratio",
            round(best["latency_ratio"], 3),
            f"< int8 {float(int8['latency_ratio']):.3f}",
            best["latency_ratio"] < float(int8["latency_ratio"]),
        ),
        (
            "best: size ratio",
            round(best["size_ratio"], 4),
            f"< int8 {float(int8['size_ratio']):.4f}",
            best["size_ratio"] < float(int8["size_ratio"]),
        ),
        (
            "best: drop on test",
            round(best["drop_test"], 4),
            f"pruned 0.5: {float(pruned['drop_test']):.4f}",
            best["drop_test"] <= float(pruned["drop_test"]) + 0.005,
        ),
    ]
    print(f"{'what':<32}{'measured':>12}  {'goal':<22}met")
    for name, value, goal, met in checks:
        print(f"{name:<32}{value:>12}  {goal:<22}{'yes' if met else 'NO'}")
    return 0 if all(met for *_, met in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
