"""``autoslim``: the commands, and what their ends mean to a shell.

Exit status: 0 done (a feasible point was found), 1 internal error, 2 usage error, 3 no feasible point (best effort saved),
4 study in use by another run, 130 interrupted (front saved).
"""

import importlib
import os
import sys
import traceback

import typer

from autoslim.errors import AutoSlimError, StudyInUse, UserError

COMMANDS = (
    "search",
    "sweep",
    "status",
    "report",
    "pick",
    "compare",
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
app = typer.Typer(
    name="autoslim",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Search how to make a trained PyTorch network fit a device, and ship files that were measured.",
)


def version(value: bool) -> None:
    if value:
        from autoslim import __version__

        typer.echo(f"autoslim {__version__}")
        raise typer.Exit()


@app.callback()
def main(
    debug: bool = typer.Option(False, "--debug", help="Show the trace of an error (anywhere on the line)."),
    version: bool = typer.Option(False, "--version", callback=version, is_eager=True, help="Show the version."),
) -> None:
    """Options before the command."""


for _name in COMMANDS:
    importlib.import_module(f"autoslim.cli.{_name}").add(app)


def run(arguments: list[str] | None = None) -> None:
    """Entry point of the console script: one line for every error, a trace only with --debug."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words or bool(os.environ.get("AUTOSLIM_DEBUG"))
    words = [word for word in words if word != "--debug"]
    sys.exit(call(words, debug))


def call(words: list[str], debug: bool) -> int:
    """Exit status of one command line."""
    try:
        status = typer.main.get_command(app).main(words, prog_name="autoslim", standalone_mode=False)
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
