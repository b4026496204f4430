"""A command that runs a stranger's code in its own process, watched from outside: what ends it without a word is told in one line."""

import contextlib
import faulthandler
import mmap
import os
import signal
import sys
from collections.abc import Callable

from autoslim import crumbs

#: commands that load a task or open a model's file in the command's own process; search, check and others have workers for it
COMMANDS = ("ablate", "apply", "bench", "crossvalidate", "pack", "profile", "steps", "unpack", "why")
#: what the first byte of the shared memory says once the command has ended by itself; its status is the second
ENDED = 1
WATCHED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD}


def guarded(words: list[str], act: Callable[[], int], debug: bool) -> int:
    """The exit status of ``act``, which runs in a fork of this process where the command needs it. A fork costs milliseconds, and nothing is
    loaded yet."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command not in COMMANDS or not hasattr(signal, "sigwaitinfo"):
        return act()
    memory = mmap.mmap(-1, crumbs.SIZE)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
        sys.exit(watched(act, memory, debug))
    code = wait(child)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    if memory[0] == ENDED:
        return memory[1]
    text, status = words_of(command, crumbs.last(memory), code, debug)
    with contextlib.suppress(OSError):
        print(f"autoslim: {text}", file=sys.stderr)
    return status


def watched(act: Callable[[], int], memory: mmap.mmap, debug: bool) -> int:
    """``act`` in the fork: leaves its crumbs and its status in ``memory``, and ends with the process that watches."""
    from autoslim.worker import die_with_parent

    die_with_parent()
    if debug:
        faulthandler.enable()
    crumbs.leave_in(memory)
    status = act()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # who read has gone; Python would say so at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = status or 1
    memory[1], memory[0] = status, ENDED
    return status


def wait(child: int) -> int:
    """How the process ended, as subprocess.Popen tells it. Signals that another process sent here are handed on; those of the terminal reach
    the child by themselves."""
    while True:
        told = signal.sigwaitinfo(WATCHED)
        if told.si_signo != signal.SIGCHLD:
            if told.si_code <= 0:  # by kill(), not by the kernel
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, told.si_signo)
            continue
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)


def words_of(command: str, crumb: str, code: int, debug: bool) -> tuple[str, int]:
    """(one line about a process that ended in the middle of its work, exit status): 2 where the task's own code ran, else 1."""
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    if code == -signal.SIGTERM:
        return f"{command}: was ended from outside ({how})", 1
    short = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
    if crumb:
        return crumbs.ended(crumb, f"{how}{short}"), 2
    more = "" if debug else "; run again with --debug for the trace"
    return f"{command}: the process ended without a word ({how}{short}), in a library or in the network's own code{more}", 1
