"""``autoslim``: the commands, and what their ends mean to a shell.

Exit status: 0 done (a feasible point was found), 1 internal error, 2 usage error, 3 no feasible point (best effort saved),
4 study in use by another run, 130 interrupted (front saved).
"""

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer

from autoslim.cli import _guard, _out
from autoslim.errors import AutoSlimError, StudyInUse, UserError

COMMANDS = (
    "search",
    "sweep",
    "status",
    "report",
    "pick",
    "compare",
    "ablate",
    "crossvalidate",
    "check",
    "watch",
    "apply",
    "steps",
    "pack",
    "unpack",
    "bench",
    "why",
    "profile",
    "worker",
    "list",
    "doctor",
)


def version(value: bool) -> None:
    if value:
        from autoslim import __version__

        typer.echo(f"autoslim {__version__}")
        raise typer.Exit()


def main(
    debug: bool = typer.Option(False, "--debug", help="Show the trace of an error (anywhere on the line)."),
    version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Show the version."),
) -> None:
    """Options before the command."""


def app_of(words: list[str]) -> typer.Typer:
    """The application with the command that the line names, or with all of them where it names none: twenty take a tenth of a second."""
    app = typer.Typer(
        name="autoslim",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        help="Search how to make a trained PyTorch network fit a device, and ship files that were measured.",
    )
    app.callback()(main)
    first = next((word for word in words if not word.startswith("-")), None)
    for name in [first] if first in COMMANDS else COMMANDS:
        importlib.import_module(f"autoslim.cli.{name}").add(app)
    for command in app.registered_commands:
        command.callback = reserving(command.callback)
    return app


def reserving(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, for which standard output is kept as long as it runs; help and usage are printed before."""

    @functools.wraps(command)
    def run(*args: Any, **told: Any) -> Any:
        with _out.reserved():
            return command(*args, **told)

    return run


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the console script: one line for every error, a trace only with --debug."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("AUTOSLIM_DEBUG"))
    words = [word for word in words if word != "--debug"]
    sys.exit(_guard.guarded(words, lambda: call(words, debug), debug))


def call(words: list[str], debug: bool) -> int:
    """Exit status of one command line."""
    try:
        status = typer.main.get_command(app_of(words)).main(words, prog_name="autoslim", standalone_mode=False)
        return int(status or 0)
    except UserError as error:
        return say(str(error), 2, debug)
    except StudyInUse as error:
        return say(str(error), 4, debug)
    except (typer.Abort, KeyboardInterrupt):
        return say("interrupted", 130, debug)
    except AutoSlimError as error:
        return say(str(error), 1, debug)
    except BrokenPipeError:
        return 1
    except SystemExit as error:
        if isinstance(error.__context__, OSError):  # click's word for a reader of the output who went away
            return 1
        return say(f"something that the task runs called sys.exit({error.code!r}); forward() and hooks must return or raise", 2, debug)
    except Exception as error:  # the last door: nothing leaves as a trace unless it is asked for
        if hasattr(error, "format_message"):
            return usage(error, debug)
        return say(
            f"internal error, {type(error).__name__}: {' '.join(str(error).split())}; run again with --debug for the trace", 1, debug
        )


def usage(error: Exception, debug: bool) -> int:
    """A mistake in the words of the command line. Typer keeps the classes of these errors to itself, so they are known by
    their method; a command without its arguments shows its help."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(context.get_help())
        return 2
    where = context.command_path if context else "autoslim"
    return say(f"{' '.join(error.format_message().split())} (see `{where} --help`)", 2, debug)


def say(text: str, status: int, debug: bool) -> int:
    """One line on standard error; returns the status."""
    if debug:
        traceback.print_exc()
    typer.echo(f"autoslim: {text}", err=True)
    return status
