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
from orchestrator.reporting.audit_chain import check
from orchestrator.stack.environment import audited

commands = typer.Typer(name="audit", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.callback()
def audit(
    context: typer.Context,
    object_uri: Annotated[
        str | None,
        typer.Option(
            "--object",
            metavar="URI",
            help="Only accesses to the object of this name, or whose names begin with it.",
        ),
    ] = None,
    since: Annotated[datetime | None, typer.Option("--since", help="Only at that time or later.")] = None,
    home: options.Home = options.DEFAULT_HOME,
    plain: options.AsJson = False,
) -> None:
    """Search the audit log: who or what read, wrote, deleted or sent which image or result, and when.

    The stack need not be running. If the salt of de-identification is set, originals are found by their own names.
    """
    if context.invoked_subcommand is not None:
        return
    settings = audited(load(), home)
    folder = _folder(settings)
    for line in accesses(folder, _called(object_uri, settings), since.astimezone() if since else None):
        out.print(json.dumps(line) if plain else _sentence(line), markup=False, soft_wrap=True, highlight=False)


@commands.command()
def verify(
    known: Annotated[
        str | None,
        typer.Option(
            "--known", metavar="DIGEST", help="Digest that was printed earlier, and must still be there."
        ),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Check that the audit log is as it was written; exit code 1 if a line was changed, inserted or removed.

    Prints the digest of each file's last line. Keep these elsewhere: each proves later that nothing before it was
    rewritten.
    """
    checks = list(check(_folder(audited(load(), home)), known))
    for one in checks:
        text = one.wrong or f"{one.lines} lines hold; the last one: {one.digest}"
        earlier = f" ({one.before} earlier lines have no chain)" if one.before else ""
        out.print(f"{one.name}: {text}{earlier}", markup=False, soft_wrap=True, highlight=False)
    if known is not None and not any(one.known for one in checks):
        out.print(f"no line has the digest {known}", markup=False, soft_wrap=True, highlight=False)
        raise typer.Exit(1)
    if any(one.wrong for one in checks):
        raise typer.Exit(1)


def _folder(settings: Settings) -> Path:
    folder = Path(str(settings.audit.folder))
    if not folder.is_dir():
        raise UsageError(f"there is no audit log in {folder}")
    return folder


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
