"""Standard output is for answers. What a library below Python or a task's own code prints while a command runs goes to standard error: a line of
it in front of ``--json`` would spoil what a script reads."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO

import typer

#: where answers go while a command runs; None for sys.stdout
_answers: TextIO | None = None


def say(text: str = "", nl: bool = True) -> None:
    """Print an answer."""
    typer.echo(text, file=_answers, nl=nl)


@contextlib.contextmanager
def reserved() -> Iterator[None]:
    """Keep standard output for :func:`say`; it is everybody's again at the end. No effect where it is not the process's own, or closed."""
    global _answers
    if _answers is not None or sys.stdout is None or sys.stdout is not sys.__stdout__ or sys.stderr is None:
        yield
        return
    sys.stdout.flush()
    with open(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors) as stream:
        _answers = stream
        os.dup2(2, 1)
        try:
            yield
        finally:
            _answers = None
            with contextlib.suppress(OSError):
                sys.stdout.flush()  # what was printed meanwhile
            forget_lost(stream)
            os.dup2(stream.fileno(), 1)


def forget_lost(stream: TextIO) -> None:
    """Send on what is left; if who read has gone, nowhere, or Python would say so at its end."""
    try:
        stream.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
