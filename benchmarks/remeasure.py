"""Reported latencies against a second measurement of the same files by `autoslim bench`, as a ratio to the untouched model.

Run: ``python benchmarks/remeasure.py DIR [SECONDS]`` on the output folder of a search, on the machine that made it; SECONDS per file.
All files are timed in one rotation, as in the search's own verification. Prints a row per point and how many lie within 5 %, and within
the reported interval.
"""

import csv
import json
import subprocess
import sys
from pathlib import Path


def main(folder: Path, seconds: float = 8.0) -> int:
    with (folder / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    untouched = folder / next(row for row in rows if row["label"] == "untouched")["model_file"]
    rows = [row for row in rows if row["label"] != "untouched"]
    files = [str(folder / row["model_file"]) for row in rows]
    words = [sys.executable, "-m", "autoslim", "bench", *files, str(untouched), "--threads", rows[0]["threads"], "--seconds", str(seconds)]
    lines = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout.splitlines()
    near = inside = 0
    print(f"{'point':<24}{'reported':>10}{'interval':>20}{'again':>10}{'off':>9}")
    for row, line in zip(rows, lines, strict=True):
        again = json.loads(line)["ratio"]["value"]
        told, low, high = (float(row[f"latency_ratio{end}"]) for end in ("", "_low", "_high"))
        off = again / told - 1
        near += abs(off) <= 0.05
        inside += low <= again <= high
        print(f"{row['label'] or row['key']:<24}{told:>10.4f}{f'{low:.4f}..{high:.4f}':>20}{again:>10.4f}{off:>+9.1%}")
    print(f"within 5 %: {near} of {len(rows)}; within the reported interval: {inside} of {len(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(float, sys.argv[2:3])))
