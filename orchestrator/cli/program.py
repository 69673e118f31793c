"""All commands, and the module of each: only the one with the command that was typed is imported."""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import cast

import typer
from rich.markup import escape
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from dermbatch.errors import DermbatchError, UsageError
from orchestrator.cli import hear
from orchestrator.cli.app import HELP, err, new_app
from orchestrator.cli.examples import EXAMPLES

_COMMANDS = {
    "once": ("run", "samples"),
    "stack": ("up", "down"),
    "desk.desk": ("desk",),
    "batches": ("submit", "resegment", "status", "fetch", "send", "verify"),
    "steering": ("pause", "resume", "cancel", "prioritize", "retry", "reconcile"),
    "privacy": ("reidentify", "keys"),
    "watch": ("watch",),
    "canary": ("canary",),
    "similar.similar": ("similar",),
    "similar.cases": ("cases",),
    "learning.review": ("review",),
    "supports.supports": ("supports",),
    "rules": ("rules",),
    "audit": ("audit",),
    "accounts.usage": ("usage", "report"),
    "accounts.tenants": ("tenants",),
    "models": ("models",),
    "doctor": ("doctor",),
}

_FROM_OUTSIDE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors that only users can mend: a disk is full, or a file is not theirs."""

_VALUES = {"int": "N", "float": "NUMBER", "Path": "PATH", "datetime": "TIME"}


def application(typed: Sequence[str] = ()) -> typer.Typer:
    """The application with the command that was typed, or with all if it is unknown."""
    command = next((word for word in typed if not word.startswith("-")), None)
    modules = [module for module, commands in _COMMANDS.items() if command in commands]
    app = new_app()
    for module in modules or _COMMANDS:
        import_module(f"orchestrator.cli.commands.{module}").register(app)
    return app


def program(typed: Sequence[str] = ()) -> TyperGroup:
    """The same, with help that explains itself."""
    made = typer.main.get_command(application(typed))
    assert isinstance(made, TyperGroup)  # noqa: S101 - an application with a callback is one
    _explain(made)
    return made


def run(typed: Sequence[str]) -> None:
    """Run a command; errors become one sentence and an exit code."""
    hear("; stopping what was started")
    try:
        program(typed)(list(typed), prog_name="dermbatch")
    except UsageError as error:
        err.print(f"[red]dermbatch:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except DermbatchError as error:
        err.print(f"[red]dermbatch:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in _FROM_OUTSIDE:
            raise
        sys.stderr.write(f"dermbatch: {f'{error.filename}: ' if error.filename else ''}{error.strerror}\n")
        sys.exit(1)


def _explain(command: TyperCommand | TyperGroup, path: str = "") -> None:
    """Make the help of a command show an example, and types only as far as people need them."""
    context = typer.Context(command, help_option_names=HELP)
    for option in (param for param in command.get_params(context) if isinstance(param, TyperOption)):
        if option.metavar is None and not option.type_descriptor.is_choice:
            option.metavar = "" if option.is_flag else _VALUES.get(option.bare_type(), "TEXT")
    for argument in (param for param in command.params if isinstance(param, TyperArgument)):
        argument.display_type_rich = lambda ctx: None  # type: ignore[method-assign]
    if path in EXAMPLES:
        command.epilog = f"Example: {EXAMPLES[path]}"
    if isinstance(command, TyperGroup):
        for name, below in command.commands.items():
            _explain(cast("TyperCommand | TyperGroup", below), f"{path} {name}".strip())
