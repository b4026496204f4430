"""Reported latencies against a second measurement of the same files by `autoslim bench`, as a ratio to the untouched model.

Run: ``python benchmarks/remeasure.py DIR`` on the output folder of a search, on the machine that made it. Prints a row per
point and how many lie within 5 %, and within the reported interval.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path


def main(folder: Path) -> int:
    with (folder / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    untouched = folder / next(row for row in rows if row["label"] == "untouched")["model_file"]
    near = inside = 0
    print(f"{'point':<24}{'reported':>10}{'interval':>20}{'again':>10}{'off':>9}")
    for row in rows:
        words = [
            sys.executable,
            "-m",
            "autoslim",
            "bench",
            str(folder / row["model_file"]),
            str(untouched),
            "--threads",
            row["threads"],
            "--json",
        ]
        again = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["ratio"]["value"]
        told, low, high = (float(row[f"latency_ratio{end}"]) for end in ("", "_low", "_high"))
        off = again / told - 1
        near += abs(off) <= 0.05
        inside += low <= again <= high
        print(f"{row['label'] or row['key']:<24}{told:>10.4f}{f'{low:.4f}..{high:.4f}':>20}{again:>10.4f}{off:>+9.1%}")
    print(f"within 5 %: {near} of {len(rows)}; within the reported interval: {inside} of {len(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
