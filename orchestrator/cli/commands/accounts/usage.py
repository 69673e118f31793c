"""What tenants used, recomputed from all events, and what it comes to; whether reports are what was signed."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, RecordDamaged, UsageError
from dermbatch.settings import load
from dermbatch.store import ObjectStore
from dermbatch.stored import parsed
from orchestrator.batches.entries import named
from orchestrator.batches.summary import read_summary
from orchestrator.cli import options
from orchestrator.cli.app import out, warn
from orchestrator.metering.bill import Line, bill, total, unpriced
from orchestrator.metering.prices import Prices, load_prices
from orchestrator.metering.reading import Counted, count, standing
from orchestrator.metering.signature import KEY_FILE, ReportSignature, kept_key, public_of, wrong
from orchestrator.reporting.closing import write_usage

_COLUMNS = ("tenant", "month", "prices", "item", "quantity", "price", "amount", "currency")
_NAMED = 3


reports = typer.Typer(
    name="report", help="Whether the report of a batch is what was signed.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(usage)
    app.add_typer(reports)


def usage(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only of this one.")] = None,
    month: Annotated[
        str | None, typer.Option("--month", metavar="YYYY-MM", help="Only of this month, UTC.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, for a spreadsheet or a bookkeeper.")] = False,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="File of price lists; that of the settings if not given.")
    ] = None,
    rewrite: Annotated[
        str | None,
        typer.Option(
            "--rewrite", metavar="BATCH", help="First write the events of this batch anew, of its records."
        ),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Add up what tenants used, from the events of all closed batches, and what it costs by the price lists.

    Each event counts once. What is cut off, changed or gone is reported, and the exit code is 1 then. The stack
    need not run, as for fetch.
    """
    if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise UsageError(f"{month!r} is no month: say it as 2026-03")
    path = prices or load().metering.prices
    lists = load_prices(path) if path is not None else None
    with options.results(home) as store:
        if rewrite is not None:
            _rewrite(store, rewrite)
        counted = _counted(store, tenant, month or "")
    if lists is not None and (days := unpriced(counted.days, lists)):
        counted.wrong += 1
        some = ", ".join(f"{whose} {day}" for whose, day in days[:_NAMED])
        warn(f"no price list is valid for {len(days)} days of a tenant ({some}): they are in no sum of money")
    lines = bill(counted.days, lists)
    if as_csv:
        _write_csv(lines, lists)
    else:
        out.print(_table(lines, lists), soft_wrap=not out.is_terminal)
    raise typer.Exit(1 if counted.wrong else 0)


def _rewrite(store: ObjectStore, name: str) -> None:
    batch = named(store, name)
    if read_summary(store, name) is None:
        raise UsageError(f"batch {name!r} is not closed: its events are written when it closes")
    warn(f"{write_usage(store, batch).events:,} events of batch {name} written")


def _counted(store: ObjectStore, tenant: str | None, month: str) -> Counted:
    found, counted = standing(store), Counted()
    for manifest in found.manifests:
        if tenant in {None, manifest.tenant}:
            count(store, manifest, counted, warn, month)
    for key in found.damaged:
        warn(f"{key} cannot be read: what that batch used is not in the sum")
    for name in found.uncounted[:_NAMED]:
        warn(f"batch {name} has no usage events: dermbatch usage --rewrite {name} writes them from its records")
    if len(found.uncounted) > _NAMED:
        warn(f"{len(found.uncounted) - _NAMED:,} more batches have none")
    counted.wrong += len(found.damaged) + len(found.uncounted)
    if counted.repeated:
        warn(f"{counted.repeated:,} events are there more than once, and count once")
    if found.open:
        warn(f"{found.open:,} batches are open: what they used comes when they close")
    return counted


def _table(lines: Sequence[Line], prices: Prices | None) -> Table:
    currency = prices.currency if prices else ""
    table = Table(title=f"Usage: {total(lines):,} {currency}" if prices else "Usage", title_justify="left")
    for column in _COLUMNS[:4]:
        table.add_column(column.capitalize(), overflow="fold")
    for column in ("Quantity", "Price", f"Amount {currency}".strip()):
        table.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        cells = (
            line.tenant,
            line.month,
            line.prices or "",
            line.item.replace("_", " "),
            *_numbers(line, grouped=True),
        )
        table.add_row(*map(escape, cells))
    return table


def _write_csv(lines: Sequence[Line], prices: Prices | None) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        row = (line.tenant, line.month, line.prices or "", line.item, *_numbers(line, grouped=False))
        writer.writerow([*row, prices.currency if prices else ""])


def _numbers(line: Line, *, grouped: bool) -> tuple[str, str, str]:
    """Quantity, price and amount; exactly, without exponents."""

    def text(number: Decimal | None) -> str:
        return "" if number is None else f"{number:,f}" if grouped else f"{number:f}"

    return text(line.quantity), text(line.price), text(line.amount)


@reports.command()
def verify(
    batch_name: options.Batch,
    public_key: Annotated[
        str | None,
        typer.Option("--public-key", metavar="HEX", help="Of who should have signed it; ours if not given."),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--folder", help="Look at the report in this folder of results, not in the store."),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Check that a batch's report, and what it used, are what was signed when it closed; exit code 1 where not.

    The stack need not run, as for fetch.
    """
    public = public_key or _our_key(home)
    if folder is not None:
        signer, found = _verified(batch_name, lambda key: _of_folder(folder, key), public)
    else:
        with options.results(home) as store:
            signer, found = _verified(batch_name, lambda key: store.get(store.bucket, key), public)
    for sentence in found:
        warn(f"the report of batch {batch_name}: {sentence}")
    if found:
        raise typer.Exit(1)
    whose = "" if public else "; whose key that is nobody says here: give --public-key"
    out.print(f"{batch_name}: as it was signed with key {signer}{whose}", markup=False, soft_wrap=True)


@reports.command()
def key(home: options.Home = options.DEFAULT_HOME) -> None:
    """Print the public key of the reports that are signed here: give it to who is to check them."""
    found = _our_key(home)
    if found is None:
        raise UsageError(f"no key is set, and no stack has made one in {home}")
    out.print(found, markup=False, soft_wrap=True)


def _our_key(home: Path) -> str | None:
    """Of the settings, else of the stack in this home; none where there is neither."""
    secret = load().metering.signing_key
    if secret is None and (home / KEY_FILE).is_file():
        secret = kept_key(home)
    return public_of(secret) if secret is not None else None


def _verified(batch: str, read: Callable[[str], bytes | None], public: str | None) -> tuple[str, list[str]]:
    where = layout.report_signature(layout.check_batch_name(batch))
    try:
        body = read(where)
    except ObjectNotFound:
        body = None
    if body is None:
        return "", ["it is not signed, or its signature is gone"]
    try:
        signature = parsed(body, ReportSignature, where)
    except RecordDamaged as error:
        return "", [str(error)]
    return signature.public_key, wrong(signature, batch, read, public)


def _of_folder(folder: Path, key: str) -> bytes | None:
    """A file of a folder of results, which has no usage."""
    if key.startswith(layout.USAGE):
        return None
    try:
        return (folder / key).read_bytes()
    except OSError as error:
        raise ObjectNotFound(f"{key} is not there") from error
