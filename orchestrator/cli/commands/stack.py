"""``dermbatch up`` and ``dermbatch down``: a stack that keeps running."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from dermbatch.settings import load
from orchestrator.cli import options
from orchestrator.cli.app import err, out
from orchestrator.cli.commands.desk.desk import link
from orchestrator.stack import host


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)


def up(
    home: options.Home = options.DEFAULT_HOME,
    workers: options.Workers = None,
    model_repository: options.Repository = None,
    engine: options.RunBy = None,
    with_desk: Annotated[
        bool,
        typer.Option("--desk", help="Also serve the desk, pages for looking at results; prints a link to it."),
    ] = False,
) -> None:
    """Start the stack and leave it running."""
    settings = options.sized(options.engined(load(), engine), workers)
    repository = options.repository(model_repository)
    with err.status("Starting the stack"):
        host.up(home, settings, model_repository=repository, desk=with_desk)
    table = Table(title="The stack runs", title_justify="left", show_header=False)
    for name, port in host.running(home).ports.items():
        table.add_row(name, f"127.0.0.1:{port}")
    table.add_row("logs", str(home / "logs"))
    out.print(table)
    if with_desk:
        out.print(link(home), markup=False, soft_wrap=True)


def down(home: options.Home = options.DEFAULT_HOME) -> None:
    """Stop the running stack; its data stay, and unfinished batches go on at the next up."""
    with err.status("Stopping"):
        host.down(home)
