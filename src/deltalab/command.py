"""Run a Typer app as a program: every mistake and failure is one line on standard error, with the exit code it has."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from deltalab.errors import DeltalabError

INTERRUPTED = 130


def run_app(app: typer.Typer, name: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0, 2 for a mistake, 1 for a failure, 130 when interrupted.

    Args:
        app: the commands.
        name: what its lines begin with.
        arguments: the command line; this process's when left out.
    """
    try:
        code = app(arguments, standalone_mode=False)  # Typer's own printer puts a box around a mistake
    except typer.TyperException as mistake:
        code = _tell(name, mistake)
    except DeltalabError as error:
        code = error.exit_code
        print(f"{name}: {error}", file=sys.stderr)
    except (BrokenPipeError, KeyboardInterrupt, typer.Abort):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = INTERRUPTED
    except OSError as error:
        code = 1
        print(f"{name}: {error}", file=sys.stderr)
    sys.exit(code)


def _tell(name: str, mistake: typer.TyperException) -> int:
    """Print what is wrong with the command line; where there was none at all, Typer has printed the help instead."""
    context = getattr(mistake, "ctx", None)
    command = name if context is None or context.parent is None else f"{name} {context.info_name}"
    if said := " ".join(mistake.format_message().split()).rstrip("."):
        print(f"{command}: {said[0].lower()}{said[1:]} (--help lists what is allowed)", file=sys.stderr)
    return mistake.exit_code
