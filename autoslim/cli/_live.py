"""Progress of a search: one live line on a terminal, one line per trial elsewhere, nothing with --quiet."""

import sys
import time
from typing import Any

from autoslim.candidate import Done, Failed
from autoslim.loop import Progress, Watcher

#: messages that tell progress and nothing to act on
PASSING = ("verified", "timed, round", "measuring", "checking")
#: messages that tell what was found on the way, which stays on a terminal
FOUND = ("rival",)


class Silent(Watcher):
    """Keeps only what must be said: messages about budgets, and what went wrong."""

    def message(self, text: str) -> None:
        if not text.startswith(PASSING + FOUND):
            print(f"autoslim: {text}", file=sys.stderr)


class Lines(Watcher):
    """Plain lines on standard error."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    def phase(self, name: str) -> None:
        self.put(f"[{time.monotonic() - self._begun:6.1f} s] {name}")

    def prepared(self, prepared: Any) -> None:
        for line in coverage_lines(prepared.coverage):
            self.put(line)
        untouched = prepared.untouched
        self.put(
            f"untouched: {prepared.metric_name} {untouched.get('metric'):.4f}, {untouched.get('latency_ms'):.3g} ms, "
            f"{untouched.get('size_bytes') / 1000:.0f} kB; {len(prepared.space.domains)} decisions to search"
        )

    def trial(self, progress: Progress) -> None:
        self.put(trial_line(progress))

    def message(self, text: str) -> None:
        self.put(text)

    def put(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class Live(Lines):
    """A line that is drawn over itself."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self._status = Console(stderr=True).status("starting")
        self._status.start()

    def trial(self, progress: Progress) -> None:
        self._status.update(trial_line(progress))

    def phase(self, name: str) -> None:
        self._status.update(name)
        if name == "report":
            self._status.stop()

    def message(self, text: str) -> None:
        if text.startswith(PASSING):
            self._status.update(text)
        else:
            self.put(text)

    def stop(self) -> None:
        self._status.stop()


def trial_line(progress: Progress) -> str:
    """Count, what the trial gave, best feasible so far, hypervolume, time left."""
    outcome, best = progress.entry.outcome, progress.best
    if isinstance(outcome, Failed):
        gave = f"failed ({outcome.reason}): {outcome.detail[:80]}"
    else:
        found = outcome.measurement
        values = [
            f"{found.get('metric'):.4f}" if found.get("metric") is not None else "",
            f"{found.get('latency_ms'):.3g} ms" if found.get("latency_ms") else "",
            f"{found.get('size_bytes') / 1000:.0f} kB" if found.get("size_bytes") else "",
        ]
        gave = " ".join(filter(None, values)) + ("" if isinstance(outcome, Done) else f" rejected at {outcome.rung}")
    mark = (
        "none feasible yet"
        if best is None
        else (
            f"best {best.outcome.measurement.get('metric'):.4f} {best.outcome.measurement.get('latency_ms'):.3g} ms "
            f"{best.outcome.measurement.get('size_bytes') / 1000:.0f} kB"
        )
    )
    left = "" if progress.eta is None else f" | about {progress.eta:.0f} s left"
    return f"{progress.evaluations}/{progress.planned} trial {progress.entry.number}: {gave} | {mark} | hypervolume {progress.hypervolume:.4f}{left}"


def coverage_lines(coverage: dict[str, Any]) -> list[str]:
    """What each technique can reach, and what is left alone and why."""
    lines = [f"network: {coverage['params']:,} parameters, {coverage['macs']:,} multiply-accumulates, {len(coverage['layers'])} layers"]
    if "structural" in coverage:
        reach = coverage["structural"]
        idle = f" ({reach['idle_params']:,} never do)" if reach["idle_params"] else ""
        lines.append(
            f"  channels, heads and blocks reach {reach['params_share']:.1%} of parameters that take part, {reach['macs_share']:.1%} of MACs{idle}"
        )
        lines.append(f"  {coverage['checked']}")
    for name, row in coverage["techniques"].items():
        lines.append(f"  {name:<9} {row['units']:>4} units, {row['params_share']:6.1%} of parameters, {row['macs_share']:6.1%} of MACs")
    for name, why in list(coverage["left_out"].items())[:12]:
        lines.append(f"  left alone: {name}: {why}")
    if len(coverage["left_out"]) > 12:
        lines.append(f"  ... and {len(coverage['left_out']) - 12} more (autoslim profile lists all)")
    return lines
