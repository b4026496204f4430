"""Fashion-MNIST: a residual network of 174,970 parameters, and what ten minutes of search make of it.

Run: ``python benchmarks/fashion.py train [--weights FILE]`` once (ten epochs, 93.2 % on test; needs the Debian package
dataset-fashion-mnist), then ``python benchmarks/fashion.py search OUT [--weights FILE]``, which runs the study benchmarks/fashion.yaml on an idle
machine, within a tenth of the untouched time. Of the verified files whose drop on the 10,000 test images is at most one percentage point it prints the fastest and the smallest,
each against its goal; exits with 1 if one is missed. ``... table OUT`` prints them again.
"""

import argparse
import csv
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DROP, FASTER, SMALLER, ACCURACY = 0.01, 10.0, 16.0, 0.93


def search(out: Path, weights: Path | None, more: list[str]) -> None:
    """The study, in a process of its own."""
    words = [sys.executable, "-m", "autoslim", "search", "benchmarks/fashion.yaml", "--out", str(out.resolve()), *more]
    words += ["--task-arg", f"weights={weights.resolve()}"] if weights else []
    begun = time.monotonic()
    done = subprocess.run(words, check=False, cwd=ROOT)
    print(f"autoslim search: status {done.returncode} after {time.monotonic() - begun:.0f} s")


def table(out: Path) -> bool:
    """Print the two files; whether both goals are met."""
    with (out / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    untouched = next(row for row in rows if row["label"] == "untouched")
    near = [row for row in rows if float(row["drop_test"]) <= DROP]
    print(
        f"untouched: {float(untouched['metric_test']):.4f} on test, {float(untouched['size_bytes']):.0f} bytes; {len(near)} files within 1 pp"
    )
    met = float(untouched["metric_test"]) >= ACCURACY
    for name, column, goal in (("fastest", "latency_ratio", FASTER), ("smallest", "size_ratio", SMALLER)):
        best = min(near, key=lambda row: float(row[column]))
        factor = 1 / float(best[column])
        met &= factor >= goal
        print(
            f"{name}: {factor:.1f}x (goal {goal:g}x, {'met' if factor >= goal else 'MISSED'}), drop {float(best['drop_test']):+.4f}, "
            f"time ratio {float(best['latency_ratio']):.3f}, size ratio {float(best['size_ratio']):.4f}: {best['summary']}"
        )
    return met


def main() -> int:
    """Train the network, search, or print the table, whose exit status is 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("act", choices=("train", "search", "table"))
    parser.add_argument("out", type=Path, nargs="?", default=Path("reports/fashion"))
    parser.add_argument(
        "--weights", type=Path, help="cache file of the trained network; default: autoslim/fashion.safetensors in the user's cache"
    )
    parser.add_argument("--epochs", type=int, help="of the training; default: the task's own")
    given, more = parser.parse_known_args()
    if given.act == "train":
        sys.path.insert(0, str(ROOT / "benchmarks" / "tasks"))
        import fashion as task

        path = given.weights or task.cache()
        print(f"test {task.train(path, given.epochs or task.EPOCHS, lambda text: print(text, flush=True)):.4f}: {path}")
        return 0
    if given.act == "search":
        search(given.out, given.weights, more)
    return 0 if table(given.out) else 1


if __name__ == "__main__":
    sys.exit(main())
