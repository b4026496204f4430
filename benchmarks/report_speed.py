"""How long reports take: a report of 1,000 and of 10,000 trials, pick and compare, and the first paint of the page.

    python benchmarks/report_speed.py [--trials 1000,10000] [--keep FOLDER]

The studies are synthetic and made through the real Study class (tests/studies.py); each command is a process of its own, as a user
starts it. Expected: 5 s, 20 s, 2 s, 2 s; first paint 1 s.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
EXPECTED = {1000: 5.0, 10_000: 20.0}


def timed(*words: object, repeats: int = 3) -> float:
    """Least wall seconds of a command line."""
    spent = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "autoslim", *map(str, words)], check=True, stdout=subprocess.DEVNULL)
        spent.append(time.perf_counter() - begun)
    return min(spent)


def first_paint(page: Path) -> float | None:
    """Seconds until the browser paints, least of three; None where there is no playwright or no Chromium."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if found is None:
        return None
    with sync_playwright() as run:
        browser, paints = run.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"]), []
        for _ in range(3):
            tab = browser.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_function("performance.getEntriesByType('paint').length > 0")
            paints.append(tab.evaluate("performance.getEntriesByType('paint')[0].startTime") / 1000)
            tab.close()
        browser.close()
    return min(paints)


def main() -> None:
    import studies

    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", default="1000,10000")
    parser.add_argument("--keep", type=Path, help="make the studies here, and use those that are here already")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = told.keep or Path(scratch)
        print("| what | seconds | expected |\n|---|---|---|")
        for trials in (int(text) for text in told.trials.split(",")):
            folder = root / f"trials-{trials}"
            if not (folder / "study.journal").is_file():
                studies.make(folder, trials, [f"stages.{i}.conv" for i in range(10)])
            print(f"| report, {trials} trials | {timed('report', folder, repeats=2):.2f} | {EXPECTED.get(trials, '')} |")
            print(f"| pick, {trials} trials | {timed('pick', folder, '--budget-ms', '5'):.2f} | 2.0 |")
            print(f"| compare, twice {trials} trials | {timed('compare', folder, folder, '-o', root / 'compare.html'):.2f} | 2.0 |")
            paint = first_paint(folder / "report.html")
            print(f"| first paint, {trials} trials | {'no browser' if paint is None else f'{paint:.2f}'} | 1.0 |")
            print(f"| page, {trials} trials, MB | {(folder / 'report.html').stat().st_size / 1e6:.2f} | 3.0 |")


if __name__ == "__main__":
    main()
