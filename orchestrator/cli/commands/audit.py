"""``dermbatch audit``: who or what read, wrote, deleted or sent what."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.settings import Settings, load
from orchestrator.cli import options
from orchestrator.cli.app import out
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from orchestrator.reporting.accesses import Line, accesses
from orchestrator.stack.environment import audited


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(audit)


def audit(
    object_uri: Annotated[
        str | None, typer.Option("--object", metavar="URI", help="Only of what is called so, or begins so.")
    ] = None,
    since: Annotated[datetime | None, typer.Option("--since", help="Only then or later.")] = None,
    home: options.Home = options.DEFAULT_HOME,
    plain: options.AsJson = False,
) -> None:
    """Search the audit log: who or what read, wrote, deleted or sent which image or result, and when.

    The stack need not run. With the salt of de-identification set, originals are found by their own names.
    """
    settings = audited(load(), home)
    folder = Path(str(settings.audit.folder))
    if not folder.is_dir():
        raise UsageError(f"there is no audit log in {folder}")
    for line in accesses(folder, _called(object_uri, settings), since.astimezone() if since else None):
        out.print(json.dumps(line) if plain else _sentence(line), markup=False, soft_wrap=True, highlight=False)


def _called(uri: str | None, settings: Settings) -> tuple[str, ...]:
    if uri is None:
        return ()
    if settings.privacy.salt is None:
        return (uri,)
    return uri, f"pseudonym:{Pseudonyms(settings.privacy.salt).name(uri)}"


def _sentence(line: Line) -> str:
    who = f"{line.get('program')} of {line.get('user')} on {line.get('host')}"
    more = [f"{word} {line[word]}" for word in ("to", "for", "outcome") if word in line]
    return " ".join([str(line["at"]), str(line["action"]), str(line["object"]), "by", who, *more])
