"""A small disk that can be filled. Needs the right to mount a file system."""

import contextlib
import os
import subprocess

import pytest


@contextlib.contextmanager
def small(place):
    """A file system of 64 MB at ``place``; skips the test where none can be mounted."""
    place.mkdir()
    told = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip(f"no file system can be mounted here ({told.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place):
    """Leave less than a page free; returns the file that does it."""
    filler = place / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(b"x" * 65536)
                file.flush()
        except OSError:
            os.truncate(filler, file.tell() if not file.closed else filler.stat().st_size)
    return filler
