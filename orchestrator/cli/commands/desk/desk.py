"""``dermbatch desk`` and ``dermbatch desk keys``: a link to the desk, and the keys that programs use there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dermbatch.errors import StackError, UsageError
from dermbatch.records.access import Role
from dermbatch.settings import Settings
from orchestrator.cli import options
from orchestrator.cli.app import err, out
from orchestrator.stack import host
from orchestrator.stack.environment import base_environment, settings_environment
from orchestrator.stack.process import python_module

commands = typer.Typer(name="desk", invoke_without_command=True)
keys = typer.Typer(
    name="keys", help="Create, list and revoke the keys that programs use at the desk.", no_args_is_help=True
)
commands.add_typer(keys)

_NAME = typer.Argument(
    metavar="NAME", help="What the key is for; its requests appear as key:NAME.", show_default=False
)
_ROLE = typer.Option(
    "--role",
    metavar="ROLE",
    help="Role of the key: reader, reviewer, operator or admin; may be given several times.",
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.callback()
def desk(context: typer.Context, home: options.Home = options.DEFAULT_HOME) -> None:
    """Print a new link to the desk of the running stack; it opens the desk once, within 15 minutes."""
    if context.invoked_subcommand is None:
        out.print(link(home), markup=False, soft_wrap=True)


@keys.command()
def add(
    name: Annotated[str, _NAME],
    role: Annotated[list[Role], _ROLE],
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="Days for which it is valid.")] = 90,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Tenant of the key.")] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Create a key and print it: it is shown only once."""
    roles = [word for one in role for word in ("--role", one.value)]
    whose = [] if tenant is None else ["--tenant", tenant]
    made = _asked(home, "add", "--days", str(days), *roles, *whose, "--", name)
    out.print(made["key"], markup=False, soft_wrap=True, highlight=False)
    err.print(f"Key {made['id']}, until {made['expires'][:10]}. It is not shown again.", markup=False)


@keys.command("list")
def list_keys(home: options.Home = options.DEFAULT_HOME, plain: options.AsJson = False) -> None:
    """List all keys, newest first: roles, expiry and last use."""
    found = _asked(home, "list")
    if plain:
        out.print(json.dumps(found), markup=False, soft_wrap=True, highlight=False)
        return
    table = Table("id", "name", "roles", "tenant", "made", "by", "expires", "used last")
    for one in found:
        words = [" ".join(one["roles"]), one["tenant"] or "", one["made"][:10], one["by"], one["expires"][:10]]
        table.add_row(one["id"], one["name"], *words, one["used"] or "never, or before Redis was emptied")
    out.print(table)


@keys.command()
def revoke(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as listed.", show_default=False)],
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Revoke a key: it no longer lets anybody in."""
    _asked(home, "revoke", "--", identifier)


def link(home: Path) -> str:
    """A new link to the desk of the stack that runs in ``home``.

    Raises:
        UsageError: If the stack runs without a desk.
        StackError: If the link cannot be created.
    """
    port = host.running(home).ports.get("desk")
    if port is None:
        raise UsageError(f"the stack in {home} runs without a desk; start it with: dermbatch up --desk")
    return _ran(host.attach(home), "desk.door.links", f"http://127.0.0.1:{port}")


def _asked(home: Path, *words: str) -> Any:
    return json.loads(_ran(options.attach(home), "desk.door.keycommand", *words))


def _ran(settings: Settings, module: str, *words: str) -> str:
    environment = {**base_environment(os.environ), **settings_environment(settings)}
    ended = subprocess.run(
        python_module(module, *words), env=environment, capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        kind = UsageError if ended.returncode == 2 else StackError
        raise kind(ended.stderr.strip().removeprefix("dermbatch: "))
    return ended.stdout.strip()
