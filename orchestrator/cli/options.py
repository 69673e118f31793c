"""Options that several commands share, and what they mean."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from dermbatch.audit import Audit
from dermbatch.errors import StackError, UsageError
from dermbatch.ledger import Ledger
from dermbatch.models.repository import default_model_repository
from dermbatch.records.asked import Filters
from dermbatch.settings import Engine, Settings, load
from dermbatch.stages import ORDER
from dermbatch.store import ObjectStore
from orchestrator.cli.app import running
from orchestrator.stack import host
from orchestrator.stack.environment import audited

DEFAULT_HOME = Path(".dermbatch")
ALL_STAGES = ",".join(ORDER)
_SPARE_SLOTS = {  # beyond the number of processors; more gained nothing (docs/performance.md)
    Engine.TRITON: 4,  # these read and write while others wait for Triton
    Engine.ONNXRUNTIME: 0,
}

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Files, folders, archives (zip, tar, gz, bz2, xz), a DICOMDIR, s3://bucket/prefix or an object.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the results.", show_default=False)]
Stages = Annotated[str, typer.Option("--stages", help="Stages to run, separated by commas.")]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="STAGE=NAME[@VERSION]", help="Model of a stage; may be given several times."),
]
NewBatch = Annotated[str | None, typer.Option("--batch", help="Name of the batch; by default made from the time.")]
Batch = Annotated[str, typer.Argument(metavar="BATCH", help="Name of a batch.", show_default=False)]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, max=256, help="Images at a time; by default one per processor, 4 more with Triton."
    ),
]
Repository = Annotated[
    Path | None,
    typer.Option("--model-repository", help="Triton model repository; by default the bundled one."),
]
RunBy = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        help="What runs the models: onnxruntime, in the workers themselves, or triton, as on a cluster.",
        show_default="as set; run: onnxruntime, where it can run all models",
    ),
]
Home = Annotated[
    Path, typer.Option("--home", envvar="DERMBATCH_HOME", help="Folder of the stack: its data, logs and state.")
]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="GLOB", help="Only paths that match; may be given several times."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="GLOB", help="No paths that match; may be given several times."),
]
Since = Annotated[datetime | None, typer.Option("--since", help="Only what was modified at this time or later.")]
Until = Annotated[datetime | None, typer.Option("--until", help="Only what was modified before this time.")]
Deadline = Annotated[
    datetime | None,
    typer.Option(
        "--deadline",
        help="Time by which it is to be done; says whether that is possible, and raises its priority in time.",
    ),
]
Weight = Annotated[
    int, typer.Option("--weight", min=1, max=100, help="Share of its lane, relative to the other open batches.")
]
MaxFailed = Annotated[
    float | None,
    typer.Option(
        "--max-failed", min=0.0001, max=1, help="Pause the batch when more than this share of its images fail."
    ),
]
Dicom = Annotated[
    bool,
    typer.Option("--dicom", help="Also write DICOM objects (Segmentation, SR, picture) of inputs that are DICOM."),
]
Deidentify = Annotated[
    Path | None,
    typer.Option(
        "--deidentify", metavar="FILE", help="De-identify the images first, by the profile in this file."
    ),
]
SendTo = Annotated[
    str | None,
    typer.Option("--send-to", metavar="NAME", help="Also send DICOM objects to this PACS, named in the settings."),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        metavar="s3://BUCKET/PREFIX",
        help="Also copy each image's results here, named after the image.",
    ),
]
Support = Annotated[
    str | None,
    typer.Option(
        "--support",
        metavar="NAME[@VERSION]",
        help="What a one-shot segment model is shown (dermbatch supports); by default the newest version.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def attach(home: Path) -> Settings:
    """Settings of the stack that runs in ``home``, or the environment's if it names Redis and S3."""
    settings = load()
    if {"redis", "store"} <= settings.model_fields_set:
        return settings
    # The stack does not know the salt: whoever takes images in reads it from their own environment.
    return host.attach(home).model_copy(update={"privacy": settings.privacy})


def connect(home: Path) -> tuple[Settings, ObjectStore, Ledger]:
    """Settings, object store and ledger of the running stack."""
    settings = attach(home)
    return settings, ObjectStore(settings.store, audit(settings)), Ledger(settings.redis, settings.ledger)


@contextmanager
def results(home: Path, *, make: bool = False) -> Iterator[ObjectStore]:
    """The object store of the stack running in ``home``, else the one that the environment names.

    If there is neither, the store of the stack that last ran in ``home`` is started, on its own and for the time
    being.

    Args:
        home: Home of the stack.
        make: Create an empty store if no stack ever ran there.

    Raises:
        StackError: If there is none of these.
    """
    settings = load()
    try:
        settings = attach(home)
    except StackError:
        if "store" not in settings.model_fields_set:
            settings = audited(settings, home)
            with host.object_store(home, settings.store, make=make) as store:
                yield ObjectStore(store, audit(settings))
            return
    yield ObjectStore(settings.store, audit(settings))


def settings_of(home: Path) -> Settings:
    """The settings of the stack that runs in ``home``, else the environment's."""
    try:
        return attach(home)
    except StackError:
        return load()


def audit(settings: Settings) -> Audit:
    """The audit log of this command."""
    return Audit(settings.audit, f"dermbatch-{running.get()}", command=True)


def filters(
    include: Sequence[str] | None, exclude: Sequence[str] | None, since: datetime | None, until: datetime | None
) -> Filters:
    """The filters that the options describe; a time without a zone is in this machine's zone."""
    return Filters(
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        since=since.astimezone() if since else None,
        until=until.astimezone() if until else None,
    )


def repository(given: Path | None) -> Path:
    """The model repository to serve."""
    folder = given or default_model_repository()
    if not folder.is_dir():
        raise UsageError(f"no model repository at {folder}")
    return folder


def sized(settings: Settings, workers: int | None) -> Settings:
    """Settings for this many images at a time: by default one per processor, more where they wait for a server."""
    asked = settings.worker.concurrency if "concurrency" in settings.worker.model_fields_set else None
    concurrency = workers or asked or len(os.sched_getaffinity(0)) + _SPARE_SLOTS[settings.inference.engine]
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"concurrency": concurrency})})


def engined(settings: Settings, engine: Engine | None) -> Settings:
    """Settings by which this engine runs the models, if one is named."""
    if engine is None:
        return settings
    return settings.model_copy(update={"inference": settings.inference.model_copy(update={"engine": engine})})


def for_folder(settings: Settings) -> Settings:
    """Settings of a stack whose results go straight to a folder, and which does not outlive the command.

    Files in the folder are links to those of the store, so editing one in place changes both: earlier files are
    therefore checked. Pictures are kept in full, because they belong into the folder, and uploads are gone at the
    end. Images that are files of this machine are not uploaded at all.
    """
    careful = {"check_files": True, "whole_pictures": True, "local_sources": True}
    return settings.model_copy(update={"worker": settings.worker.model_copy(update=careful)})


def make_folder(folder: Path) -> None:
    """Make a folder for results."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be created: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is not writable; choose another folder, or change its permissions")
