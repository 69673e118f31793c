"""``dermbatch run`` and ``dermbatch samples``: everything in one command, with nothing left running."""

from __future__ import annotations

import re
import time
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from dermbatch import layout
from dermbatch.errors import StackError, UsageError
from dermbatch.ledger import BatchState, Ledger
from dermbatch.models import repository
from dermbatch.phantoms.lesion import Kind
from dermbatch.phantoms.samples import write_samples
from dermbatch.records.asked import Order
from dermbatch.settings import Engine, Settings, TenantSettings, load
from dermbatch.stages import closure
from dermbatch.store import ObjectStore
from dermbatch.supports.kept import PackedSupport
from dermbatch.supports.kept import named as named_support
from orchestrator.cli import options
from orchestrator.cli.app import err, out
from orchestrator.cli.tables.progress import closing_table, follow, where
from orchestrator.planning import submission
from orchestrator.planning.models import Offer, named
from orchestrator.planning.planner import abandon
from orchestrator.reporting.fetch import Fetching, fetch_originals
from orchestrator.stack.environment import audited
from orchestrator.stack.stack import Stack
from orchestrator.steering.controls import begin


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(run)
    app.command()(samples)


def run(
    inputs: options.Inputs,
    folder: options.Out,
    stage_names: options.Stages = options.ALL_STAGES,
    models: options.Models = None,
    support: options.Support = None,
    kept_in: Annotated[
        Path,
        typer.Option("--supports", envvar="DERMBATCH_HOME", help="Home of the stack that has the support."),
    ] = options.DEFAULT_HOME,
    workers: options.Workers = None,
    batch_name: options.NewBatch = None,
    model_repository: options.Repository = None,
    engine: options.RunBy = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    since: options.Since = None,
    until: options.Until = None,
    dicom: options.Dicom = False,
    send_to: options.SendTo = None,
    profile: options.Deidentify = None,
) -> None:
    """Process images with a stack that is started for it and stopped afterwards."""
    home = folder / ".dermbatch"
    settings = audited(load(), home).model_copy(
        update={"tenants": TenantSettings()}
    )  # everything belongs to its caller
    audit = options.audit(settings)
    served = options.repository(model_repository)
    order = submission.order(settings, stage_names.split(","), named(models or ()), dicom=dicom, send_to=send_to)
    packed = _packed(support, home, kept_in) if support is not None else None
    if packed is not None:
        order = order.model_copy(update={"support": packed.choice})
    settings = options.engined(settings, engine or _fastest(settings, served, order))
    name = submission.new_name(batch_name)
    # The re-identification table goes into the folder, sealed: the store of this run has no other bucket.
    privacy = settings.privacy.model_copy(update={"bucket": None})
    submitted = submission.prepare(
        order,
        inputs,
        settings.model_copy(update={"privacy": privacy}),
        ObjectStore(settings.store, audit) if any(given.startswith("s3://") for given in inputs) else None,
        Offer.of_repository(served, settings.inference.engine),
        filters=options.filters(include, exclude, since, until),
        profile=profile,
        in_place=False,
        local=True,
        leave_out=folder,
        audit=audit,
    )
    options.make_folder(folder)
    with ExitStack() as ending:
        with err.status("Starting the stack"):
            stack = Stack(
                home,
                options.for_folder(options.sized(settings, workers)),
                model_repository=served,
                keep_queue=False,
                holder="run",
            )
            ending.enter_context(stack)
        store, ledger = ObjectStore(stack.settings.store, audit), Ledger(stack.settings.redis, settings.ledger)
        _give_up_interrupted(store, ledger)
        if packed is not None:
            packed.put(store)
        abandon(store, name)  # its uploads are gone now
        with err.status("Reading the inputs"):
            batch = submitted.plan(name, store)
        started = time.monotonic()
        begin(store, ledger, batch)
        fetching = Fetching(store, batch.name, folder, file_of=stack.file_of)

        def look(state: BatchState | None) -> None:
            _look_after(stack)
            fetching.early(state.next_index if state is not None else 0)

        summary = follow(ledger, store, batch, err, look)
        seconds = time.monotonic() - started
        fetching.finish()
        fetch_originals(store, batch.name, folder)
        store.delete_prefix(store.incoming_bucket, "")
    out.print(closing_table(batch, summary, seconds))
    where(out, folder)
    raise typer.Exit(1 if summary.failed else 0)


def samples(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the images.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many images.")] = 24,
    seed: Annotated[
        str, typer.Option("--seed", help="A number or any text; the same seed gives the same images.")
    ] = "0",
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Where to write the true masks; by default FOLDER-truth.")
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--kind", help="Draw only this kind of lesion; ring is pale and unlike any that the models know."
        ),
    ] = None,
) -> None:
    """Draw sample images: skin, lesions, hairs, rulers, ink, gel bubbles; JPEG, PNG, TIFF and DICOM."""
    number = int(seed) if re.fullmatch(r"[0-9]{1,18}", seed) else zlib.crc32(seed.encode(errors="surrogateescape"))
    masks = truth or Path(f"{folder.resolve()}-truth")
    if masks.resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"the true masks would be taken for images in {folder}: name another folder with --truth")
    for made in (folder, masks):
        options.make_folder(made)
    paths = write_samples(folder, count, seed=number, truth=masks, kind=kind)
    out.print(f"{len(paths)} images in {folder}", markup=False, soft_wrap=True)


def _fastest(settings: Settings, models: Path, order: Order) -> Engine | None:
    """The workers themselves, if they can run all models: without a GPU a server costs time. None: as set."""
    if "engine" in settings.inference.model_fields_set:
        return None
    foreign = repository.served_models(models).keys() - repository.for_onnx_runtime(models).keys()
    wanted = {order.models[stage].name for stage in closure(frozenset(order.stages))}
    return Engine.TRITON if wanted & foreign else Engine.ONNXRUNTIME


def _packed(text: str, home: Path, kept_in: Path) -> PackedSupport:
    """The named support, from this folder's own store or from that of another home."""
    own = (home / "s3").is_dir()
    try:
        with options.results(kept_in) as store:
            return PackedSupport.of(store, named_support(store, text))
    except (StackError, UsageError):
        if not own or kept_in.resolve() == home.resolve():
            raise
    with options.results(home) as store:
        return PackedSupport.of(store, named_support(store, text))


def _give_up_interrupted(store: ObjectStore, ledger: Ledger) -> None:
    """Abandon what an interrupted run has not finished; what it computed is reused by this one."""
    store.delete_prefix(store.bucket, layout.OPEN)
    store.delete_prefix(store.incoming_bucket, "")
    for state in ledger.batches.all():
        ledger.batches.forget(state.name)
        ledger.images.drop(state.name)


def _look_after(stack: Stack) -> None:
    for sentence in stack.check():
        err.print(sentence, markup=False, soft_wrap=True)
