"""What tenants used, recomputed from all events, and what it costs; whether reports are what was signed."""

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
from orchestrator.metering.bill import BillLine, bill, total, unpriced
from orchestrator.metering.prices import Prices, load_prices
from orchestrator.metering.reading import Counted, count, standing
from orchestrator.metering.signature import KEY_FILE, ReportSignature, kept_key, public_of, wrong
from orchestrator.reporting.closing import write_usage

_COLUMNS = ("tenant", "month", "prices", "item", "quantity", "price", "amount", "currency")
_NAMED = 3


reports = typer.Typer(
    name="report", help="Check that the report of a batch is what was signed.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(usage)
    app.add_typer(reports)


def usage(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")] = None,
    month: Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="Only this month, UTC.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="As CSV, for spreadsheets and bookkeeping.")] = False,
    prices: Annotated[
        Path | None, typer.Option("--prices", help="File of price lists; by default that of the settings.")
    ] = None,
    rewrite: Annotated[
        str | None,
        typer.Option(
            "--rewrite", metavar="BATCH", help="First write the events of this batch again, from its records."
        ),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Add up what tenants used, from the events of all closed batches, and what it costs by the price lists.

    Each event counts once. Events that are cut off, changed or missing are reported, with exit code 1. The stack
    need not be running, as for fetch.
    """
    if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise UsageError(f"{month!r} is not a month: write it like 2026-03")
    path = prices or load().metering.prices
    lists = load_prices(path) if path is not None else None
    with options.results(home) as store:
        if rewrite is not None:
            _rewrite(store, rewrite)
        counted = _counted(store, tenant, month or "")
    if lists is not None and (days := unpriced(counted.days, lists)):
        counted.wrong += 1
        some = ", ".join(f"{whose} {day}" for whose, day in days[:_NAMED])
        warn(f"no price list is valid for {len(days)} days of a tenant ({some}): they are not part of any cost")
    lines = bill(counted.days, lists)
    if as_csv:
        _write_csv(lines, lists)
    else:
        out.print(_table(lines, lists), soft_wrap=not out.is_terminal)
    raise typer.Exit(1 if counted.wrong else 0)


def _rewrite(store: ObjectStore, name: str) -> None:
    batch = named(store, name)
    if read_summary(store, name) is None:
        raise UsageError(f"batch {name!r} is not closed yet: its events are written when it closes")
    warn(f"{write_usage(store, batch).events:,} events of batch {name} written")


def _counted(store: ObjectStore, tenant: str | None, month: str) -> Counted:
    found, counted = standing(store), Counted()
    for manifest in found.manifests:
        if tenant in {None, manifest.tenant}:
            count(store, manifest, counted, warn, month)
    for key in found.damaged:
        warn(f"{key} cannot be read: what that batch used is not included")
    for name in found.uncounted[:_NAMED]:
        warn(f"batch {name} has no usage events: dermbatch usage --rewrite {name} writes them from its records")
    if len(found.uncounted) > _NAMED:
        warn(f"{len(found.uncounted) - _NAMED:,} more batches have none")
    counted.wrong += len(found.damaged) + len(found.uncounted)
    if counted.repeated:
        warn(f"{counted.repeated:,} events exist more than once, and are counted once")
    if found.open:
        warn(f"{found.open:,} batches are open: what they use is counted when they close")
    return counted


def _table(lines: Sequence[BillLine], prices: Prices | None) -> Table:
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


def _write_csv(lines: Sequence[BillLine], prices: Prices | None) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        row = (line.tenant, line.month, line.prices or "", line.item, *_numbers(line, grouped=False))
        writer.writerow([*row, prices.currency if prices else ""])


def _numbers(line: BillLine, *, grouped: bool) -> tuple[str, str, str]:
    """Quantity, price and amount; exactly, without exponents."""

    def text(number: Decimal | None) -> str:
        return "" if number is None else f"{number:,f}" if grouped else f"{number:f}"

    return text(line.quantity), text(line.price), text(line.amount)


@reports.command()
def verify(
    batch_name: options.Batch,
    public_key: Annotated[
        str | None,
        typer.Option(
            "--public-key", metavar="HEX", help="Key of whoever should have signed it; by default our own."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Check the report in this folder of results instead of the one in the store."
        ),
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Check that a batch's report and usage are what was signed when it closed; exit code 1 if they are not.

    The stack need not be running, as for fetch.
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
    whose = "" if public else "; nothing here says whose key that is: give --public-key"
    out.print(f"{batch_name}: as signed with key {signer}{whose}", markup=False, soft_wrap=True)


@reports.command()
def key(home: options.Home = options.DEFAULT_HOME) -> None:
    """Print the public key that reports are signed with here: give it to whoever is to check them."""
    found = _our_key(home)
    if found is None:
        raise UsageError(f"no key is set, and no stack has created one in {home}")
    out.print(found, markup=False, soft_wrap=True)


def _our_key(home: Path) -> str | None:
    """The key of the settings, else of the stack in this home; none if there is neither."""
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
        return "", ["it was never signed, or its signature is gone"]
    try:
        signature = parsed(body, ReportSignature, where)
    except RecordDamaged as error:
        return "", [str(error)]
    return signature.public_key, wrong(signature, batch, read, public)


def _of_folder(folder: Path, key: str) -> bytes | None:
    """A file in a folder of results, which has no usage."""
    if key.startswith(layout.USAGE):
        return None
    try:
        return (folder / key).read_bytes()
    except OSError as error:
        raise ObjectNotFound(f"{key} does not exist") from error
