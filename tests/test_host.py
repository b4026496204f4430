"""Facts about the machine: shares of stolen time by hand, and the threads that follow from them."""

import ctypes
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autoslim import host
from autoslim.cli.bench import threads_of
from autoslim.job import IDENTITY, timed_threads


def test_share_stolen_is_of_busy_time_alone():
    # user 50 nice 10 system 20 | idle 1000 iowait 500 | irq 5 softirq 5 steal 10: 10 of 100 busy ticks
    assert host.share_stolen("cpu  50 10 20 1000 500 5 5 10 0 0") == pytest.approx(0.1)


def test_a_kernel_without_the_column_counts_nothing():
    assert host.share_stolen("cpu  50 10 20 1000") == 0.0


@pytest.mark.parametrize(
    ("flags", "stolen", "threads"),
    [("fpu sse hypervisor avx", 0.0, 1), ("fpu sse avx", 0.0, 4), ("", 0.001, 1), ("", 0.0, 4)],
    ids=["a guest says so", "own hardware", "a guest by its stolen time", "nothing is told"],
)
def test_default_threads(monkeypatch, flags, stolen, threads):
    monkeypatch.setattr(host, "_cpuinfo", lambda: f"model name\t: any\nflags\t\t: {flags}\n" if flags else "")
    monkeypatch.setattr(host, "stolen", lambda: stolen)
    monkeypatch.setattr(host, "cores", lambda: (0, 1, 2, 3))
    host.virtual.cache_clear()
    try:
        assert host.own_cores() == threads
        assert bool(host.threads_note(threads, False)) == (threads == 1)
    finally:
        host.virtual.cache_clear()


def test_threads_that_were_asked_for_are_warned_about_and_kept(monkeypatch):
    monkeypatch.setattr(host, "virtual", lambda: True)
    monkeypatch.setattr(host, "cores", lambda: (0, 1))
    assert "--threads 1 is steadier" in host.threads_note(2, True)
    assert host.threads_note(1, True) == ""


def test_a_study_keeps_its_threads_and_bench_takes_them(tmp_path):
    note = tmp_path / "a" / IDENTITY
    note.parent.mkdir(parents=True)
    note.write_text(json.dumps({"threads": 3}), encoding="utf-8")
    assert timed_threads(tmp_path / "a") == 3
    assert timed_threads(tmp_path / "b") == 0
    inside, outside = tmp_path / "a/models/k/model.onnx", tmp_path / "b/models/k/model.onnx"
    assert threads_of([inside]) == 3
    assert threads_of([inside, outside]) == 0


def test_a_worker_computes_with_its_share_of_the_cores():
    """In a process of its own, since the limit stays: torch's threads and BLAS's, read back from the libraries."""
    words = (
        "import threadpoolctl, torch; from autoslim import threads; threads.limit(1);"
        "print(torch.get_num_threads(), {pool['num_threads'] for pool in threadpoolctl.threadpool_info() if pool['user_api'] == 'blas'})"
    )
    found = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "{1}"]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library cannot give memory back")
def test_freed_memory_is_given_back():
    """Many small pieces, freed but for the last, keep the C library's memory resident until it is trimmed; a law of glibc."""
    words = (
        "import ctypes; from autoslim import memory; c = ctypes.CDLL(None); c.malloc.restype = ctypes.c_void_p; c.free.argtypes = [ctypes.c_void_p];"
        "got = [c.malloc(1000) for _ in range(100_000)]; [ctypes.memset(p, 1, 1000) for p in got]; [c.free(p) for p in got[:-1]];"
        "before = memory.resident(); memory.trim(); print(before - memory.resident())"
    )
    found = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert int(found.stdout) > 50_000_000


def test_extras_are_those_of_the_project_and_say_what_is_missing(monkeypatch):
    with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as file:
        told = tomllib.load(file)["project"]["optional-dependencies"]
    names = {extra: {re.match(r"[\w.-]+", line).group(0) for line in lines} for extra, lines in told.items() if extra != "test"}
    lines = ["torch>=2.6", *(f"{line}; extra == '{extra}'" for extra, some in told.items() for line in some)]
    monkeypatch.setattr(host.importlib.metadata, "requires", lambda package: lines)  # as a wheel of this checkout would say
    monkeypatch.setattr(host, "version", lambda package: None)
    assert {extra: set(absent) for extra, absent in host.extras().items()} == names
    monkeypatch.setattr(host, "version", lambda package: "1.0")
    assert host.extras() == dict.fromkeys(names, [])
