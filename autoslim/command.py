"""A device behind a command: ``--target 'cmd:./bench.sh {file}'``. The command gets a file and prints JSON; nothing of AutoSlim runs there.

The JSON is the whole of standard output or its last line that begins with ``{``:

- ``times_ms``: milliseconds of each run, a list or one number; needed
- ``energy_mj``: millijoules of one run; ``peak_memory_bytes``: the most memory in use; ``batch``: samples in one run; all optional
"""

import json
import math
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoslim.errors import DeviceFailed, UserError

PREFIX, FILE, THREADS = "cmd:", "{file}", "{threads}"
#: seconds of one call, and the variable that sets others
SECONDS, VARIABLE = 120.0, "AUTOSLIM_CMD_TIMEOUT"


@dataclass(frozen=True)
class Answer:
    """What one call told: milliseconds of its runs, at least one; the rest None where the command does not say."""

    times_ms: tuple[float, ...]
    energy_mj: float | None = None
    peak_memory_bytes: float | None = None
    batch: float | None = None


class Command:
    """``text`` is a line for /bin/sh that holds {file}, and {threads} if it likes. Raises UserError for one without {file}."""

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        if FILE not in self.text:
            raise UserError(f"--target: got {PREFIX + text!r}, allowed: a command with {FILE} in it, such as '{PREFIX}./bench.sh {FILE}'")
        self.seconds = timeout()

    def ask(self, path: Path, threads: int) -> Answer:
        """Call the command for one file. Raises DeviceFailed with its reason."""
        line = self.text.replace(FILE, shlex.quote(str(path))).replace(THREADS, str(threads))
        process = subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, told = process.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            end(process)
            raise DeviceFailed(f"the command gave no answer within {self.seconds:g} s ({VARIABLE})", "timeout") from None
        if process.returncode:
            last = (told.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise DeviceFailed(f"the command ended with status {process.returncode}: {last[:200]}")
        return read(out.decode(errors="replace"))


def timeout() -> float:
    """Seconds that one call may take. Raises UserError for a setting that is no positive number."""
    told = os.environ.get(VARIABLE, "")
    try:
        seconds = float(told or SECONDS)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"{VARIABLE}: got {told!r}, allowed: seconds above 0")
    return seconds


def end(process: subprocess.Popen) -> None:
    """Kill a shell with everything that it started."""
    import psutil

    try:
        root = psutil.Process(process.pid)
        for one in (*root.children(recursive=True), root):
            one.kill()
    except psutil.NoSuchProcess:
        pass
    process.communicate()


def read(text: str) -> Answer:
    """The answer in a command's output. Raises DeviceFailed that says what is wrong with it."""
    lines = [line for line in text.splitlines() if line.lstrip().startswith("{")]
    for part in (text, *lines[-1:]):
        try:
            data = json.loads(part)
        except ValueError:
            continue
        if isinstance(data, dict):
            return answer(data)
    raise DeviceFailed(f'the command printed no JSON object but {" ".join(text.split())[:100]!r}, allowed: {{"times_ms": [...]}}')


def answer(data: Mapping[str, Any]) -> Answer:
    """Checked. Raises DeviceFailed."""
    if "times_ms" not in data:
        raise DeviceFailed(f"the command's JSON has no times_ms but {', '.join(data) or 'nothing'}")
    told = data["times_ms"]
    times = [number("times_ms", value) for value in (told if isinstance(told, list) else [told])]
    if not times:
        raise DeviceFailed("the command's times_ms is empty, allowed: at least one time in milliseconds")
    extra = {name: number(name, data[name]) for name in ("energy_mj", "peak_memory_bytes", "batch") if data.get(name) is not None}
    return Answer(tuple(times), **extra)


def number(name: str, value: Any) -> float:
    """A figure of the command's answer as a float. Raises DeviceFailed for what is no finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise DeviceFailed(f"the command's {name} holds {value!r}, allowed: numbers above 0")
    return float(value)
