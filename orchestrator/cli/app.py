"""What all commands share: the program that they are added to, and where they write."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated

import typer
from rich.console import Console

from dermbatch import __version__

HELP = ["-h", "--help"]
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)
running: ContextVar[str] = ContextVar("running", default="command")
"""Name of the command that runs."""


def warn(sentence: str) -> None:
    """Print a warning, which does not end the command."""
    err.print(f"dermbatch: {sentence}", markup=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


def new_app() -> typer.Typer:
    """The program, without its commands."""
    app = typer.Typer(
        name="dermbatch",
        help="Purify, segment, enhance and classify dermoscopic images in batches.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": HELP},
    )
    app.callback()(_options)
    return app


def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Purify, segment, enhance and classify dermoscopic images in batches."""
    running.set(context.invoked_subcommand or running.get())
