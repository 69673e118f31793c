"""The planner: turns candidates into a manifest, the durable record of what was asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Literal

from dermbatch import __version__, layout
from dermbatch.errors import ObjectNotFound, PermanentError, UsageError
from dermbatch.records import Batch, ManifestEntry, ModelChoice, Refusal
from dermbatch.stages import ORDER, Stage
from dermbatch.store import ObjectStore
from orchestrator.intake import Candidate, Skipped

_UPLOADS_AT_A_TIME = 8
_AHEAD = 16
"""Candidates looked at together: bounds the memory that uploads take."""


@dataclass(frozen=True)
class Order:
    """What the user asked to be done with the inputs."""

    batch: str
    models: dict[Stage, ModelChoice]
    stages: tuple[Stage, ...] = ORDER
    lane: Literal["live", "bulk"] = "bulk"


def read_batch(store: ObjectStore, name: str) -> Batch:
    """The batch record.

    Raises:
        ObjectNotFound: Where there is no such batch, or its plan never ended.
    """
    return Batch.model_validate_json(store.get(store.bucket, layout.batch_record(name)))


def read_manifest_part(store: ObjectStore, batch: str, part: str) -> list[ManifestEntry]:
    """The entries of one part of a manifest, in order of their indices."""
    lines = store.get(store.bucket, layout.manifest_part(batch, part)).splitlines()
    return [ManifestEntry.model_validate_json(line) for line in lines]


def plan(order: Order, candidates: Iterable[Candidate | Skipped], store: ObjectStore) -> Batch:
    """Upload what has to be uploaded, write the manifest, then the batch record.

    Args:
        order: What was asked.
        candidates: What :class:`orchestrator.intake.Intake` found.
        store: Uploads go into its incoming bucket, records into its result bucket.

    Raises:
        UsageError: Where the batch name is taken, or there is not one candidate.
        StoreUnavailable: Where the store fails; the batch then does not exist.
    """
    layout.check_batch_name(order.batch)
    try:
        read_batch(store, order.batch)
    except ObjectNotFound:
        pass
    else:
        raise UsageError(f"there is a batch {order.batch!r} already; choose another name")
    skipped = _Counter()
    entries = _uploaded(order.batch, _without_skipped(candidates, skipped), store)
    images = 0
    while part := list(islice(entries, layout.PART_SIZE)):
        name, _ = layout.part_of(images)
        body = b"".join(entry.to_json() + b"\n" for entry in part)
        store.put(layout.manifest_part(order.batch, name), body, "application/x-ndjson")
        images += len(part)
    if images == 0:
        raise UsageError(f"no image among the inputs ({skipped.count} other files)")
    batch = Batch(
        name=order.batch,
        created=datetime.now(UTC),
        lane=order.lane,
        stages=order.stages,
        models=order.models,
        images=images,
        skipped=skipped.count,
        software=__version__,
    )
    store.put(layout.batch_record(order.batch), batch.to_json(), "application/json")
    return batch


@dataclass
class _Counter:
    count: int = 0


def _without_skipped(candidates: Iterable[Candidate | Skipped], skipped: _Counter) -> Iterator[Candidate]:
    for candidate in candidates:
        if isinstance(candidate, Skipped):
            skipped.count += 1
        else:
            yield candidate


def _uploaded(batch: str, candidates: Iterator[Candidate], store: ObjectStore) -> Iterator[ManifestEntry]:
    """Entries in the candidates' order, uploads running side by side."""
    numbered = enumerate(candidates)
    with ThreadPoolExecutor(_UPLOADS_AT_A_TIME) as pool:
        while chunk := list(islice(numbered, _AHEAD)):
            yield from pool.map(lambda pair: _entry(batch, pair[0], pair[1], store), chunk)


def _entry(batch: str, index: int, candidate: Candidate, store: ObjectStore) -> ManifestEntry:
    if candidate.read is None:
        return ManifestEntry(
            index=index,
            name=candidate.name,
            source=candidate.uri,
            size=candidate.size,
            refusal=candidate.refusal,
        )
    try:
        data = candidate.read()
    except PermanentError as error:
        refusal = Refusal(reason=error.reason, message=str(error))
        return ManifestEntry(index=index, name=candidate.name, size=candidate.size, refusal=refusal)
    # A number, not the file's name: names may be anything, and often are patients' names.
    key = f"{batch}/{index}"
    store.put(key, data, "application/octet-stream", bucket=store.incoming_bucket)
    source = f"s3://{store.incoming_bucket}/{key}"
    return ManifestEntry(index=index, name=candidate.name, source=source, size=len(data))
