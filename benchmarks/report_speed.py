"""How long reports take: a report of 1,000 and of 10,000 trials, pick and compare, and the first paint of the page.

    python benchmarks/report_speed.py [--trials 1000,10000] [--keep FOLDER]

The studies are synthetic and made through the real Study class (tests/studies.py); each command is a process of its own, as a user
starts it, and the least of the repeats counts. Seconds of the processor stand beside those of the clock, which are more on a machine that
does other things. Expected: report 5 s and 20 s, pick and compare 2 s, a page below 3 MB for 1,000 trials, first paint 1 s, and a frame of
the trade-off, drawn anew for a moved budget line, in a tenth of a second. The exit status is 1 if a goal is missed.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
EXPECTED = {1000: 5.0, 10_000: 20.0}


def timed(*words: object, repeats: int = 3) -> tuple[float, float]:
    """Least (wall, processor) seconds of a command line. Raises RuntimeError if the command loads torch."""
    spent = []
    code = "import sys; from autoslim.cli.main import call; status = call(sys.argv[1:], False); sys.exit(9 if 'torch' in sys.modules else status)"
    for _ in range(repeats):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code, *map(str, words)], check=False, stdout=subprocess.DEVNULL)
        wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(
                f"autoslim {' '.join(map(str, words))}: status {done.returncode}" + " (9: torch was loaded)" * (done.returncode == 9)
            )
        spent.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return min(wall for wall, _ in spent), min(work for _, work in spent)


def looked(folder: Path) -> tuple[float, float]:
    """Seconds in which watch makes the page the first time, and once more after one new fact in the journal."""
    from autoslim import watching
    from autoslim.study import Study

    live = watching.Live(folder)
    begun = time.perf_counter()
    live.page()
    first = time.perf_counter() - begun
    Study.read(folder).set_fact("note", str(begun))
    live._rested, begun = 0.0, time.perf_counter()
    live.page()
    return first, time.perf_counter() - begun


#: five frames of the trade-off with moved budget lines: milliseconds of one
FRAMES = """() => { const a = window.autoslim; a.drawPareto(); const begun = performance.now();
for (let i = 0; i < 5; i++) { a.setBudget(5 + 0.1 * i, true); a.charts.pareto.getZr().flush(); } return (performance.now() - begun) / 5; }"""


def in_browser(page: Path) -> tuple[float, float] | None:
    """(seconds until the browser paints, seconds of a frame of the trade-off), least of three; None where there is no playwright or no Chromium."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        return None
    if found is None:
        return None
    with sync_playwright() as run:
        browser, paints, frames = run.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"]), [], []
        for _ in range(3):
            tab = browser.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_function("window.autoslim !== undefined && performance.getEntriesByType('paint').length > 0")
            paints.append(tab.evaluate("performance.getEntriesByType('paint')[0].startTime") / 1000)
            frames.append(tab.evaluate(FRAMES) / 1000)
            tab.close()
        browser.close()
    return min(paints), min(frames)


class Goals:
    """Prints each figure beside its goal and keeps those that miss it."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def row(self, name: str, value: float | None, goal: float | None, work: str = "", digits: int = 2) -> None:
        """``value`` None: not measured, so the goal is neither met nor missed; ``goal`` None: there is none."""
        print(
            f"| {name} | {'no browser' if value is None else f'{value:.{digits}f}'} | {work} | {'' if goal is None else goal} |", flush=True
        )
        if value is not None and goal is not None and value > goal:
            self.missed.append(f"{name}: {value:.{digits}f}, expected at most {goal}")

    def status(self) -> int:
        """Exit status: 1 if a goal was missed, which is told on standard error."""
        for text in self.missed:
            print(f"missed: {text}", file=sys.stderr)
        return int(bool(self.missed))


def main() -> int:
    """Print a row per figure; exit status 1 if a goal is missed."""
    import studies

    goals = Goals()

    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", default="1000,10000", help="sizes of the studies")
    parser.add_argument("--keep", type=Path, help="make the studies here, and use those that are here already")
    parser.add_argument("--repeats", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = told.keep or Path(scratch)
        print("| what | wall s | processor s | expected |\n|---|---|---|---|")
        for trials in (int(text) for text in told.trials.split(",")):
            folder = root / f"trials-{trials}"
            if not (folder / "study.journal").is_file():
                studies.make(folder, trials, [f"stages.{i}.conv" for i in range(10)])
            other = root / f"trials-{trials}-b"
            if not (other / "study.journal").is_file():
                studies.make(other, trials, [f"stages.{i}.conv" for i in range(10)], seed=1, better=0.1)
            for name, words, expected in (
                (f"report, {trials} trials", ("report", folder), EXPECTED.get(trials)),
                (f"pick, {trials} trials", ("pick", folder, "--budget-ms", "5"), 2.0),
                (f"compare, two of {trials} trials", ("compare", folder, other, "-o", root / "compare.html"), 2.0),
            ):
                wall, work = timed(*words, repeats=told.repeats)
                goals.row(name, wall, expected, f"{work:.2f}")
            first, again = looked(folder)
            print(f"| watch, {trials} trials: first page, then one with a new fact | {first:.2f}, {again:.2f} | | |")
            seen = in_browser(folder / "report.html")
            paint, frame = seen or (None, None)
            goals.row(f"first paint, {trials} trials", paint, 1.0)
            goals.row(f"a frame with another budget, {trials} trials", frame, 0.1, digits=3)
            goals.row(f"page, {trials} trials, MB", (folder / "report.html").stat().st_size / 1e6, 3.0 if trials <= 1000 else None)
    return goals.status()


if __name__ == "__main__":
    sys.exit(main())
