"""How much resident memory opening and running a file adds to a process.

Run: ``python -m autoslim.memory RUNTIME THREADS TASK ARGS PART``; then one path per line on standard input, one number of
bytes (or ``error: ...``) per line on standard output. The process loads the task's input and the runtime once and forks a
child for each file, so that every file meets the same fresh state, and neither the task nor the libraries count.
"""

import ast
import contextlib
import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from autoslim.job import Job

RUNS = 10


class Probe:
    """The measuring process, started when first asked; one per caller. Close it by dropping its input."""

    def __init__(self, job: Job) -> None:
        self._command = [
            sys.executable,
            "-m",
            "autoslim.memory",
            job.runtime,
            str(job.threads),
            job.task,
            repr(dict(job.task_args)),
            job.part or "",
        ]
        self._process: subprocess.Popen | None = None
        self._asked: Path | None = None

    def start(self) -> None:
        """Begin loading the task and the runtime, so that the first answer does not wait for it; no effect where that is done."""
        if self._process is None or self._process.poll() is not None:
            self._asked = None
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, path: Path) -> None:
        """Begin to measure one file; :meth:`measure` of the same file brings the answer."""
        self.start()
        if self._asked is not None:
            self._process.stdout.readline()  # nobody came for that answer
        self._asked = path
        with contextlib.suppress(OSError):  # it has ended meanwhile, which measure() reads
            self._process.stdin.write(f"{path}\n")
            self._process.stdin.flush()

    def measure(self, path: Path) -> float:
        """Bytes added by one file. Raises RuntimeError with the child's reason."""
        if self._asked != path:
            self.ask(path)
        self._asked = None
        answer = self._process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise RuntimeError(f"memory of {path.name} could not be measured ({answer or 'the measuring process ended'})")
        return float(answer)


def trim() -> None:
    """Give back what the C library keeps of freed memory, where it can (glibc's malloc_trim): a worker that evaluates one candidate after the
    other would hold the most that any of them needed, in pieces."""
    release = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if release is not None:
        release(0)


def resident() -> int:
    """Resident bytes of this process now."""
    import psutil

    return psutil.Process().memory_info().rss


def child(runtime: Any, path: Path, threads: int, workload: list[Any]) -> int:
    """Bytes that opening and running the file adds to this process, at its highest."""
    before = peak = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    session = runtime.open(path, threads)
    for inputs in workload:
        run = session.bind(inputs)
        for _ in range(RUNS):
            run()
    done.set()
    watcher.join()
    return max(0, max(peak, resident()) - before)


def main() -> None:
    """Serve as the module says until standard input ends. A file's trouble is an answer; only the task's own errors end the process."""
    from autoslim import plugins, task

    answers = os.dup(1)
    os.dup2(2, 1)  # what a task prints, also while it is loaded, must not mix with the answers
    runtime_name, threads, source, args, part = sys.argv[1:6]
    workload = [inputs for inputs, _ in task.load(source, ast.literal_eval(args), part=part or None).latency_inputs()]
    runtime = plugins.load("runtimes", runtime_name)
    for line in sys.stdin:
        gc.collect()
        pid = os.fork()
        if pid == 0:
            try:
                text = str(child(runtime, Path(line.strip()), int(threads), workload))
            except Exception as error:  # reported to the caller, who turns it into the candidate's end
                text = f"error: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            os.write(answers, f"{text}\n".encode())
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            os.write(answers, f"error: ended with status {status}\n".encode())


if __name__ == "__main__":
    main()
