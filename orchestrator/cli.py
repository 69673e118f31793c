"""The command line. Exit codes: 0 all well, 1 some images failed or a part broke, 2 usage."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dermbatch import __version__, layout, stages
from dermbatch.errors import DermbatchError, InferenceUnavailable, ObjectNotFound, UsageError
from dermbatch.ledger import Ledger
from dermbatch.phantoms import write_samples
from dermbatch.records import Batch, ModelChoice
from dermbatch.settings import Settings, load
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.fetch import fetch as fetch_batch
from orchestrator.intake import Intake
from orchestrator.models import check, served
from orchestrator.planner import Order, plan, read_batch
from orchestrator.progress import closing_table, follow, where
from orchestrator.stack import host
from orchestrator.stack.repository import default_model_repository, served_models
from orchestrator.stack.stack import Stack

app = typer.Typer(
    name="dermbatch",
    help="Purify, segment, enhance and classify dermoscopic images in batches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files, folders, zip archives or s3://bucket/prefix.", show_default=False
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", show_default=False)]
Stages = Annotated[str, typer.Option("--stages", help="Stages to run, separated by commas.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="STAGE=NAME[@VERSION]", help="Model of a stage; may be given several times."),
]
BatchName = Annotated[
    str | None, typer.Option("--batch", help="Name of the batch; made from the time if not given.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, max=256, help="Images at a time; 4 more than the processors if not given."),
]
Repository = Annotated[
    Path | None,
    typer.Option("--model-repository", help="Triton model repository; the models that come along if not given."),
]
Home = Annotated[
    Path, typer.Option("--home", envvar="DERMBATCH_HOME", help="Folder of the stack: its data, logs and state.")
]
DEFAULT_HOME = Path(".dermbatch")
ALL_STAGES = ",".join(ORDER)
_SPARE_SLOTS = 4  # reading and writing while others wait for Triton; more gained nothing (docs/performance.md)


@app.command()
def run(
    inputs: Inputs,
    folder: Out,
    stage_names: Stages = ALL_STAGES,
    models: Models = None,
    workers: Workers = None,
    batch_name: BatchName = None,
    model_repository: Repository = None,
) -> None:
    """Process images with a stack that is started for it and stopped afterwards."""
    settings = load()
    repository = _repository(model_repository)
    order = _order(settings, batch_name, stage_names, models, repository)
    _make_folder(folder)
    source = ObjectStore(settings.store) if any(name.startswith("s3://") for name in inputs) else None
    intake = Intake(settings, source, in_place=False, leave_out=folder)
    intake.check(inputs)
    with ExitStack() as ending:
        with err.status("Starting Redis, S3, Triton and a worker"):
            stack = Stack(
                folder / ".dermbatch", _sized(settings, workers), model_repository=repository, keep_queue=False
            )
            ending.enter_context(stack)
        store, ledger = ObjectStore(stack.settings.store), Ledger(stack.settings.redis, settings.ledger)
        store.delete_prefix(store.incoming_bucket, "")  # what an interrupted run has left
        with err.status("Reading the inputs"):
            batch = plan(order, intake.walk(inputs), store)
        started = time.monotonic()
        ledger.open_batch(batch)
        summary = follow(ledger, store, batch, err, lambda: _look_after(stack))
        seconds = time.monotonic() - started
        fetch_batch(store, batch.name, folder, file_of=stack.file_of)
        table = closing_table(batch, summary, seconds)
        store.delete_prefix(store.incoming_bucket, "")
    out.print(table)
    where(out, folder)
    raise typer.Exit(1 if summary.failed else 0)


@app.command()
def up(
    home: Home = DEFAULT_HOME,
    workers: Workers = None,
    model_repository: Repository = None,
) -> None:
    """Start the stack and leave it running."""
    settings = _sized(load(), workers)
    repository = _repository(model_repository)
    with err.status("Starting Redis, S3, Triton and a worker"):
        host.up(home, settings, model_repository=repository)
    table = Table(title="The stack runs", title_justify="left", show_header=False)
    for name, port in host.running(home).ports.items():
        table.add_row(name, f"127.0.0.1:{port}")
    table.add_row("logs", str(home / "logs"))
    out.print(table)


@app.command()
def submit(
    inputs: Inputs,
    home: Home = DEFAULT_HOME,
    stage_names: Stages = ALL_STAGES,
    models: Models = None,
    batch_name: BatchName = None,
    live: Annotated[bool, typer.Option("--live", help="Ahead of bulk batches.")] = False,
) -> None:
    """Give images to the running stack and print the batch's name; does not wait."""
    settings = _attach(home)
    order = _order(settings, batch_name, stage_names, models, None)
    if live:
        order = Order(order.batch, order.models, order.stages, "live")
    _check_served(settings, order)
    store = ObjectStore(settings.store)
    intake = Intake(settings, store, in_place=True)
    intake.check(inputs)
    with err.status("Reading the inputs"):
        batch = plan(order, intake.walk(inputs), store)
    Ledger(settings.redis, settings.ledger).open_batch(batch)
    out.print(batch.name, markup=False)


@app.command()
def status(
    batch_name: Annotated[str | None, typer.Argument(metavar="[BATCH]", show_default=False)] = None,
    home: Home = DEFAULT_HOME,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the batch until it is finished.")] = False,
) -> None:
    """Show how the batches of the running stack stand."""
    settings = _attach(home)
    store, ledger = ObjectStore(settings.store), Ledger(settings.redis, settings.ledger)
    names = [batch_name] if batch_name else _batch_names(store)
    if watch:
        if batch_name is None:
            raise UsageError("--watch needs the name of a batch")
        follow(ledger, store, _known(store, batch_name), err, lambda: None)
    table = Table("batch", "state", "images", "results", "failed", box=None, pad_edge=False)
    open_batches = ledger.open_batches()
    for name in names:
        batch = _known(store, name)
        counts = ledger.counts(name)
        state = "open" if name in open_batches else "finished"
        done, failed = (str(counts.done), str(counts.failed)) if counts else ("?", "?")
        table.add_row(escape(name), state, str(batch.images), done, failed)
    out.print(table)
    if watch and counts is not None and counts.failed:
        raise typer.Exit(1)


@app.command()
def fetch(
    batch_name: Annotated[str, typer.Argument(metavar="BATCH")], folder: Out, home: Home = DEFAULT_HOME
) -> None:
    """Write the results of a batch of the running stack into a folder."""
    settings = _attach(home)
    store = ObjectStore(settings.store)
    _known(store, batch_name)
    _make_folder(folder)
    fetch_batch(store, batch_name, folder)
    where(out, folder)


@app.command()
def down(home: Home = DEFAULT_HOME) -> None:
    """Stop the running stack; its data stay."""
    with err.status("Stopping"):
        host.down(home)


@app.command()
def samples(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where to write the images.")],
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same images.")] = 0,
    truth: Annotated[
        Path | None, typer.Option("--truth", help="Where to write the true masks; FOLDER-truth if not given.")
    ] = None,
) -> None:
    """Draw sample images: skin, lesions, hairs, rulers, ink, gel bubbles; JPEG, PNG, TIFF and DICOM."""
    paths = write_samples(folder, count, seed=seed, truth=truth or folder.with_name(f"{folder.name}-truth"))
    out.print(f"{len(paths)} images in {folder}", markup=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Purify, segment, enhance and classify dermoscopic images in batches."""


def _attach(home: Path) -> Settings:
    """Settings of the stack that runs in ``home``; the environment's own where that names Redis and S3."""
    settings = load()
    if {"redis", "store"} <= settings.model_fields_set:
        return settings
    return host.attach(home)


def _order(
    settings: Settings, name: str | None, stage_names: str, models: list[str] | None, repository: Path | None
) -> Order:
    chosen = dict(settings.models)
    for text in models or []:
        stage, _, model = text.partition("=")
        model_name, _, version = model.partition("@")
        if stage not in set(ORDER) or not model_name:
            raise UsageError(
                f"--model {text!r}: write STAGE=NAME or STAGE=NAME@VERSION, STAGE one of {ALL_STAGES}"
            )
        chosen[Stage(stage)] = ModelChoice(name=model_name, version=version or None)
    wanted = [part.strip() for part in stage_names.split(",") if part.strip()]
    if unknown := [part for part in wanted if part not in set(ORDER)]:
        raise UsageError(f"no such stage: {', '.join(unknown)}; there are {ALL_STAGES}")
    if not wanted:
        raise UsageError(f"no stage is given; there are {ALL_STAGES}")
    order = stages.closure(frozenset(map(Stage, wanted)))
    if repository is not None:
        check({stage: chosen[stage] for stage in order}, served_models(repository), str(repository))
    batch = layout.check_batch_name(name) if name else datetime.now(UTC).strftime("batch-%Y%m%d-%H%M%S")
    return Order(batch, {stage: chosen[stage] for stage in order}, order)


def _check_served(settings: Settings, order: Order) -> None:
    try:
        check(order.models, served(settings.triton), f"Triton at {settings.triton.url}")
    except InferenceUnavailable as error:  # images wait for it in the queue: no reason to turn them away
        err.print(f"dermbatch: the models are not checked: {error}", markup=False, soft_wrap=True)


def _repository(given: Path | None) -> Path:
    repository = given or default_model_repository()
    if not repository.is_dir():
        raise UsageError(f"no model repository at {repository}")
    return repository


def _look_after(stack: Stack) -> None:
    for sentence in stack.check():
        err.print(sentence, markup=False, soft_wrap=True)


def _sized(settings: Settings, workers: int | None) -> Settings:
    """Settings for so many images at a time: a few more than processors, since Triton does most of the work."""
    asked = settings.worker.concurrency if "concurrency" in settings.worker.model_fields_set else None
    concurrency = workers or asked or len(os.sched_getaffinity(0)) + _SPARE_SLOTS
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"concurrency": concurrency})})


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is not writable")


def _known(store: ObjectStore, name: str) -> Batch:
    try:
        return read_batch(store, layout.check_batch_name(name))
    except ObjectNotFound as error:
        raise UsageError(f"there is no batch {name!r}") from error


def _batch_names(store: ObjectStore) -> list[str]:
    keys = (info.key for info in store.list(store.bucket, "batches/"))
    return [key.split("/")[1] for key in keys if key.endswith("/batch.json")]


def _end(number: int, frame: Any) -> NoReturn:
    # As an exception, so that the stack is stopped on the way out; a second signal must not break that off.
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_IGN)
    err.print(f"dermbatch: ended by {signal.Signals(number).name}; stopping what was started")
    raise SystemExit(128 + number)


def main() -> None:
    """Run a command; errors become one sentence and an exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    try:
        app()
    except UsageError as error:
        err.print(f"[red]dermbatch:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(2)
    except DermbatchError as error:
        err.print(f"[red]dermbatch:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
