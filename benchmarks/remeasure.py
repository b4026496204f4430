"""Reported latencies against a second measurement of the same files by `autoslim bench`, as a ratio to the untouched model.

Run: ``python benchmarks/remeasure.py DIR [SECONDS]`` on the output folder of a search, on the machine that made it; SECONDS per file.
All files are timed in one rotation, as in the search's own verification. Prints a row per point, how many lie within 5 %, how many within
the reported interval (83 % are to be expected of two equally good measurements, since the second errs too), and of how many the
difference is within the intervals of both, taken together (95 %).
"""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path


def main(folder: Path, seconds: float = 8.0) -> int:
    """Print a row per verified file, and how many of them agree."""
    with (folder / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    untouched = folder / next(row for row in rows if row["label"] == "untouched")["model_file"]
    rows = [row for row in rows if row["label"] != "untouched"]
    files = [str(folder / row["model_file"]) for row in rows]
    words = [sys.executable, "-m", "autoslim", "bench", *files, str(untouched), "--threads", rows[0]["threads"], "--seconds", str(seconds)]
    lines = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True).stdout.splitlines()
    near = inside = agreed = 0
    print(f"{'point':<24}{'reported':>10}{'interval':>20}{'again':>10}{'off':>9}")
    for row, line in zip(rows, lines, strict=True):
        second = json.loads(line)["ratio"]
        again = second["value"]
        told, low, high = (float(row[f"latency_ratio{end}"]) for end in ("", "_low", "_high"))
        off = again / told - 1
        near += abs(off) <= 0.05
        inside += low <= again <= high
        agreed += abs(math.log(again / told)) <= math.hypot(half(low, high), half(second["low"], second["high"]))
        print(f"{row['label'] or row['key']:<24}{told:>10.4f}{f'{low:.4f}..{high:.4f}':>20}{again:>10.4f}{off:>+9.1%}")
    print(f"within 5 %: {near} of {len(rows)}; within the reported interval: {inside} of {len(rows)}; ", end="")
    print(f"difference within both intervals: {agreed} of {len(rows)}")
    return 0


def half(low: float, high: float) -> float:
    """Half the width of an interval of a ratio, in logarithms."""
    return math.log(high / low) / 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(float, sys.argv[2:3])))
