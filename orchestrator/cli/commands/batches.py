"""Batches of a running stack: submit, resegment, status, fetch, send, verify."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated

import typer

from dermbatch.errors import UsageError
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Order
from dermbatch.settings import load
from orchestrator.batches import entries
from orchestrator.batches.history import read_history
from orchestrator.cli import options
from orchestrator.cli.app import err, out, warn
from orchestrator.cli.tables.estimate import estimate_table
from orchestrator.cli.tables.overview import rendered
from orchestrator.cli.tables.progress import follow, where
from orchestrator.fhir.delivery import Told, send_bundles, write_bundles
from orchestrator.fhir.server import named_server
from orchestrator.planning import submission
from orchestrator.planning.deadline import Promise, promise, reckoned
from orchestrator.planning.models import Offer, named
from orchestrator.planning.support import pinned
from orchestrator.reporting.fetch import fetch as fetch_batch
from orchestrator.reporting.overview import as_json, overview, standing
from orchestrator.reporting.verifying import verify as verify_batch
from orchestrator.steering.controls import begin, begin_if_open


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (submit, resegment, status, fetch, send, verify):
        app.command()(command)


def submit(
    inputs: options.Inputs,
    home: options.Home = options.DEFAULT_HOME,
    stage_names: options.Stages = options.ALL_STAGES,
    models: options.Models = None,
    support: options.Support = None,
    batch_name: options.NewBatch = None,
    live: Annotated[bool, typer.Option("--live", help="Use the live lane, ahead of bulk batches.")] = False,
    weight: options.Weight = 1,
    max_failed: options.MaxFailed = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    since: options.Since = None,
    until: options.Until = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing; only estimate images, time and cost.")
    ] = False,
    price: Annotated[
        float | None, typer.Option("--price", min=0, help="Price of one GPU for an hour, for --dry-run.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs, for --dry-run.")] = 1,
    dicom: options.Dicom = False,
    send_to: options.SendTo = None,
    output: options.Output = None,
    profile: options.Deidentify = None,
    tenant: Annotated[
        str, typer.Option("--tenant", help="Tenant that the batch belongs to and that is billed for it.")
    ] = "default",
    deadline: options.Deadline = None,
    plain: options.AsJson = False,
) -> None:
    """Submit images to the running stack and print the batch's name; does not wait.

    If it is killed while reading the inputs, the same command with the same --batch resumes; after that, it finds
    its batch and changes nothing.
    """
    settings, store, ledger = options.connect(home)
    order = submission.order(
        settings,
        stage_names.split(","),
        named(models or ()),
        lane="live" if live else "bulk",
        weight=weight,
        max_failed_share=max_failed,
        dicom=dicom,
        send_to=send_to,
        output=output,
        tenant=tenant,
        deadline=deadline.astimezone() if deadline is not None else None,
    )
    order = pinned(order, support, store, settings)
    name = submission.name_for(batch_name, tenant, settings)
    chosen = options.filters(include, exclude, since, until)
    if not dry_run:
        there = submission.before(name, order, inputs, settings, store, filters=chosen, profile=profile)
        if there is not None:
            begin_if_open(store, ledger, there)
            err.print(f"batch {name} was submitted before: nothing is changed", markup=False, soft_wrap=True)
            out.print(name, markup=False)
            return
    offer = Offer.of(settings, warn)
    submitted = submission.prepare(
        order,
        inputs,
        settings,
        store,
        offer,
        filters=chosen,
        profile=profile,
        audit=store.audit,
    )
    if dry_run:
        with err.status("Reading the inputs"):
            found = submitted.estimate(store, offer, slots=ledger.slots.live(), price=price, gpus=gpus)
        promised = _promise(order, found.seconds, ledger)
        text = json.dumps(found.to_dict() | ({"deadline": promised.to_dict()} if promised else {}), indent=2)
        out.print(text if plain else estimate_table(found, price=price), soft_wrap=plain, markup=not plain)
        if promised is not None:
            err.print(promised.sentence, markup=False, soft_wrap=True)
        return
    if batch_name is None:
        text = f"batch {name}: if this is interrupted, the same command with --batch {name} resumes"
        err.print(text, markup=False, soft_wrap=True)
    with err.status("Reading the inputs") as shown:
        batch = submitted.plan(
            name, store, lambda record: shown.update(f"Reading the inputs: {record.images:,} images so far")
        )
    if order.deadline is not None:
        own = reckoned(order, batch.images, read_history(store), ledger.slots.live())
        if (promised := _promise(order, own, ledger)) is not None:
            err.print(promised.sentence, markup=False, soft_wrap=True)
    begin(store, ledger, batch)
    out.print(batch.name, markup=False)


def _promise(order: Order, own: float | None, ledger: Ledger) -> Promise | None:
    """Whether its deadline can be met, if it has one."""
    if order.deadline is None:
        return None
    return promise(order.deadline, datetime.now(UTC), own, ledger.everywhere().batches)


def resegment(
    batches: Annotated[
        list[str],
        typer.Argument(metavar="BATCH", help="Batches whose images are run again.", show_default=False),
    ],
    models: options.Models = None,
    support: options.Support = None,
    home: options.Home = options.DEFAULT_HOME,
    batch_name: options.NewBatch = None,
    weight: options.Weight = 1,
    max_failed: options.MaxFailed = None,
) -> None:
    """Run images of earlier batches with another model version, and compare.

    Only what the new version changes is computed. The new batch ends with comparison.html and comparison.parquet.
    """
    settings, store, ledger = options.connect(home)
    order = Order(models=named(models or ()), weight=weight, max_failed_share=max_failed)
    offer = Offer.of(settings, warn)
    tenant = entries.named(store, batches[0]).order.tenant
    name = submission.name_for(batch_name, tenant, settings)
    order = pinned(order, support, store, settings, tenant)
    with err.status("Reading the earlier batches"):
        batch = submission.again(name, order, batches, settings, store, offer)
    begin(store, ledger, batch)
    out.print(batch.name, markup=False)


def status(
    batch_name: Annotated[
        str | None, typer.Argument(metavar="BATCH", help="Name of a batch; by default all.", show_default=False)
    ] = None,
    home: options.Home = options.DEFAULT_HOME,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the batch until it is closed.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="All closed batches, not only the newest.")] = False,
    plain: options.AsJson = False,
) -> None:
    """Show the state of batches: progress, rate, time left, failures, the live image that has waited longest."""
    _, store, ledger = options.connect(home)
    failed = 0
    if watch:
        if batch_name is None:
            raise UsageError("--watch needs the name of a batch")
        failed = follow(ledger, store, entries.named(store, batch_name), err).failed
    shown = standing(store, ledger, batch_name) if batch_name else overview(store, ledger, everything=everything)
    if plain:
        out.print(as_json(shown), soft_wrap=True, markup=False)
    else:
        out.print(rendered(shown, out), soft_wrap=not out.is_terminal)
    raise typer.Exit(1 if failed else 0)


def fetch(
    batch_name: options.Batch,
    folder: options.Out,
    home: options.Home = options.DEFAULT_HOME,
    fhir: Annotated[bool, typer.Option("--fhir", help="Also write each result as FHIR resources (R4).")] = False,
) -> None:
    """Write the results of a batch into a folder.

    The stack need not be running: the object store of its home is started for this command, unless
    DERMBATCH_STORE__ENDPOINT_URL and credentials name another one.
    """
    with options.results(home) as store:
        batch = entries.named(store, batch_name)
        options.make_folder(folder)
        told = write_bundles(store, batch, folder, _tell) if fhir else Told()  # does not need the other files
        fetch_batch(store, batch_name, folder)
    where(out, folder)
    if fhir:
        _show(batch_name, told, "written as FHIR")
    raise typer.Exit(1 if told.bad else 0)


def send(
    batch_name: options.Batch,
    fhir: Annotated[str, typer.Option("--fhir", metavar="NAME", help="Name of a FHIR server in the settings.")],
    home: options.Home = options.DEFAULT_HOME,
) -> None:
    """Send the results of a batch to a FHIR server, as DiagnosticReport and Observations (R4).

    Nothing that the server has already is created twice, so the same command resumes an interrupted one. Exit code
    1 if results were not taken. The stack need not be running, as for fetch.
    """
    server = named_server(fhir, load().fhir)
    try:
        with options.results(home) as store:
            told = send_bundles(store, entries.named(store, batch_name), server, _tell)
    finally:
        server.close()
    _show(batch_name, told, f"sent to {fhir}")
    made = f"{told.created:,} resources created, {told.there:,} were there already"
    out.print(f"{batch_name}: {made}", markup=False, soft_wrap=True)
    raise typer.Exit(1 if told.bad else 0)


def _tell(text: str) -> None:
    err.print(text, markup=False, soft_wrap=True)


def _show(name: str, told: Told, what: str) -> None:
    text = (
        f"{name}: {told.sent:,} results {what} ({told.nobody:,} name no patient), {told.bad:,} could not be, "
        f"{told.silent:,} have nothing to tell, {told.failed:,} images have no result"
    )
    out.print(text, markup=False, soft_wrap=True)


def verify(batch_name: options.Batch, home: options.Home = options.DEFAULT_HOME) -> None:
    """Compare a batch's records and files in the object store with what was written; nothing is changed.

    Lists what is missing or damaged, with exit code 1. Submitted again, such images are computed again.
    The stack need not be running, as for fetch.
    """
    with options.results(home) as store:
        found = verify_batch(store, entries.named(store, batch_name), _tell)
    text = (
        f"{batch_name}: {found.results:,} results and {found.failures:,} failures, {found.files:,} files of "
        f"{found.bytes:,} bytes as they were written, {found.unchecked:,} of no known digest, {found.bad:,} bad"
    )
    out.print(text, markup=False, soft_wrap=True)
    raise typer.Exit(1 if found.bad else 0)
