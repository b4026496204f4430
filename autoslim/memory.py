"""A fresh process that opens one file, runs it, and prints the resident bytes that this added.

Run: ``python -m autoslim.memory FILE RUNTIME THREADS TASK ARGS``. The example input is made before the first reading, so that
neither the task's nor the libraries' memory counts.
"""

import ast
import ctypes
import gc
import sys
import threading
import time
from pathlib import Path


def resident() -> int:
    """Resident bytes of this process now."""
    import psutil

    return psutil.Process().memory_info().rss


def main() -> None:
    from autoslim import plugins, task

    path, runtime_name, threads, source, args = sys.argv[1:6]
    loaded = task.load(source, ast.literal_eval(args))
    inputs = loaded.latency_input
    runtime = plugins.load("runtimes", runtime_name)
    gc.collect()
    if hasattr(ctypes, "CDLL") and sys.platform.startswith("linux"):
        ctypes.CDLL(None).malloc_trim(0)
    before, peak, done = resident(), resident(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    run = runtime.open(Path(path), int(threads)).bind(inputs)
    for _ in range(10):
        run()
    done.set()
    watcher.join()
    print(max(0, max(peak, resident()) - before))


if __name__ == "__main__":
    main()
