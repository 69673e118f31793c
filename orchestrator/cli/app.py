"""The program around the commands: signals, errors, exit codes."""

from __future__ import annotations

import signal
import sys
from contextvars import ContextVar
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from dermbatch import __version__
from dermbatch.errors import DermbatchError, UsageError

app = typer.Typer(
    name="dermbatch",
    help="Purify, segment, enhance and classify dermoscopic images in batches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
running: ContextVar[str] = ContextVar("running", default="command")
"""Name of the command that runs."""


def warn(sentence: str) -> None:
    """Say what does not end the command."""
    err.print(f"dermbatch: {sentence}", markup=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Purify, segment, enhance and classify dermoscopic images in batches."""
    running.set(context.invoked_subcommand or running.get())


def _end(number: int, frame: Any) -> NoReturn:
    # As an exception, so that the stack is stopped on the way out; a second signal must not break that off.
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    err.print(f"dermbatch: ended by {signal.Signals(number).name}; stopping what was started")
    raise SystemExit(128 + number)


def main() -> None:
    """Run a command; errors become one sentence and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        app()
    except UsageError as error:
        err.print(f"[red]dermbatch:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except DermbatchError as error:
        err.print(f"[red]dermbatch:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
