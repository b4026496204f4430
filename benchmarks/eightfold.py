"""Eight times smaller without labels: the digits network and the residual network for Fashion-MNIST.

Run: ``python benchmarks/eightfold.py [digits] [fashion] [--out FOLDER] [--seed N]``; the weights of the latter come from ``python
benchmarks/fashion.py train``. Each search of 14 candidates gets an eighth of the untouched file's bytes and one percentage point as limits, and no
labels: recovery learns from the original's outputs. Of the recommended file, as verified on test data, it prints bytes and drop;
exits with 1 where it is not eight times smaller or loses more than a point.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "benchmarks" / "eightfold_space.yaml"
#: task and bytes of the untouched file
NETWORKS = {"digits": ("autoslim.tasks.digits.task", 1_933_468), "fashion": ("benchmarks/tasks/fashion.py", 709_384)}
TIMES, DROP = 8.0, 0.01


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", default=list(NETWORKS))
    parser.add_argument("--out", help="a folder for all files; default: a temporary one")
    parser.add_argument("--seed", default="0")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'network':<10}{'bytes':>10}{'smaller':>9}{'test':>9}{'drop pp (95 % interval)':>28}{'n':>8}")
        return max([shown(name, Path(told.out or folder) / name, told.seed) for name in told.networks])


def shown(name: str, out: Path, seed: str) -> int:
    """Search, print the recommended file's row, and say by the status whether it met both limits."""
    task, size = NETWORKS[name]
    words = [
        "search",
        "--task",
        task,
        "--space",
        str(SPACE),
        "--objectives",
        "metric,size_bytes",
        "--budget-mb",
        f"{size / TIMES / 1e6:.6f}",
    ]
    words += ["--max-drop", "1pp", "--trials", "14", "--seed", seed, "--quiet", "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "autoslim", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        sys.exit(f"{name}: status {done.returncode}: {done.stderr[-500:]}")
    best = subprocess.run([sys.executable, "-m", "autoslim", "pick", str(out), "--json"], capture_output=True, text=True, check=False)
    row = yaml.safe_load(best.stdout)
    labels = yaml.safe_load((out / row["recipe_file"]).read_text(encoding="utf-8")).get("recovery", {}).get("labels", 0.0)
    with (out / "front.csv").open(newline="") as file:
        untouched = next(one for one in csv.DictReader(file) if one["label"] == "untouched")
    smaller = float(untouched["size_bytes"]) / row["size_bytes"]
    interval = f"{100 * row['drop_test']:.2f} ({100 * row['drop_test_low']:.2f} to {100 * row['drop_test_high']:.2f})"
    print(f"{name:<10}{row['size_bytes']:>10.0f}{smaller:>9.1f}{row['metric_test']:>9.4f}{interval:>28}{row['n_test']:>8}", flush=True)
    return 0 if smaller >= TIMES and row["drop_test"] <= DROP and not labels else 1


if __name__ == "__main__":
    sys.exit(main())
