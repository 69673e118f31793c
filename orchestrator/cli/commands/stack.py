"""``dermbatch up`` and ``dermbatch down``: a stack that stays, and the way to its desk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dermbatch.errors import StackError, UsageError
from dermbatch.settings import load
from orchestrator.cli import options
from orchestrator.cli.app import err, out
from orchestrator.stack import host
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.process import python_module


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(up)
    app.command()(down)
    app.command()(desk)


def up(
    home: options.Home = options.DEFAULT_HOME,
    workers: options.Workers = None,
    model_repository: options.Repository = None,
    engine: options.RunBy = None,
    with_desk: Annotated[
        bool, typer.Option("--desk", help="Serve the desk, too: pages to look at results. Prints a link last.")
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
        out.print(_link(home), markup=False, soft_wrap=True)


def down(home: options.Home = options.DEFAULT_HOME) -> None:
    """Stop the running stack; its data stay, and batches that are not finished go on at the next up."""
    with err.status("Stopping"):
        host.down(home)


def desk(home: options.Home = options.DEFAULT_HOME) -> None:
    """Print a new link to the desk of the running stack; it opens the desk once, within 15 minutes."""
    out.print(_link(home), markup=False, soft_wrap=True)


def _link(home: Path) -> str:
    port = host.running(home).ports.get("desk")
    if port is None:
        raise UsageError(f"the stack in {home} runs without a desk; start it with: dermbatch up --desk")
    environment = {**base_environment(os.environ), **settings_environment(host.attach(home))}
    command = python_module("desk.door.links", f"http://127.0.0.1:{port}")
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise StackError(made.stderr.strip().removeprefix("dermbatch: "))
    return made.stdout.strip()
