"""What of a task's code is running, left in memory that outlives this process, so that whoever started it can say what ended it.

A segmentation fault or ``os._exit`` inside ``model()`` leaves no exception; the last crumb is all there is.
"""

import contextlib
import mmap
from collections.abc import Iterator

#: bytes of the shared memory; the first two are for whoever shares it
SIZE, HEAD = 1024, 2
_shared: mmap.mmap | None = None


def leave_in(memory: mmap.mmap) -> None:
    """From now on crumbs of this process lie in ``memory``, SIZE bytes that another process sees."""
    global _shared
    _shared = memory


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """``what``, such as "task digits: model()", is the crumb while the context is open, whatever opens inside; then what was before."""
    if _shared is None:
        yield
        return
    before = _shared[HEAD:SIZE]
    text = what.encode()[: SIZE - HEAD]
    _shared[HEAD:SIZE] = text.ljust(SIZE - HEAD, b"\0")
    try:
        yield
    finally:
        _shared[HEAD:SIZE] = before


def last(memory: mmap.mmap) -> str:
    """The crumb that lies in ``memory``; empty where none does."""
    return memory[HEAD:SIZE].rstrip(b"\0").decode(errors="replace")


def ended(crumb: str, how: str) -> str:
    """What a user reads of code that ended its process instead of returning or raising."""
    return f"{crumb} ended its whole process ({how}); mend the code that it runs, which must return or raise"
