"""Failures that the orchestrator records itself: inputs refused, and poison."""

from __future__ import annotations

import structlog

from dermbatch import layout, metrics
from dermbatch.errors import DermbatchError, ObjectNotFound, PermanentError
from dermbatch.failures import write_failure
from dermbatch.ledger import ImageRef, Ledger
from dermbatch.records.asked import ImageJob, ManifestEntry
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_manifest_part

_log = structlog.get_logger(__name__)


def refuse(store: ObjectStore, ledger: Ledger, batch: str, entry: ManifestEntry) -> None:
    """Record the failure of a manifest entry that never became an image."""
    refusal = entry.refusal
    reason = refusal.reason if refusal else "no_source"
    write_failure(
        store,
        batch=batch,
        index=entry.index,
        name=entry.name,
        source=entry.source,
        reason=reason,
        message=refusal.message if refusal else "the manifest names no object",
        permanent=True,
        attempts=0,
    )
    if ledger.batches.refuse(batch, entry.index, reason):
        _count(batch, entry.index, reason)


def bury(store: ObjectStore, ledger: Ledger, job: ImageJob, attempts: int, owner: str) -> None:
    """Record an image whose workers died too often, unless one of them had already written the result."""
    if _has_result(store, job):
        ledger.images.finish(job, owner, "done")
        return
    write_failure(
        store,
        batch=job.batch,
        index=job.index,
        name=job.name,
        source=job.source,
        reason="poison",
        message=f"its worker died {attempts} times; look at the image, and retry it once the cause is fixed",
        permanent=True,
        attempts=attempts,
    )
    if ledger.images.finish(job, owner, "failed", "poison"):
        _count(job.batch, job.index, "poison")


def bury_unread(
    store: ObjectStore, ledger: Ledger, image: ImageRef, deliveries: int, owner: str, why: DermbatchError
) -> None:
    """Record an image whose message is no job; its name is in the manifest."""
    if _has_result(store, image):
        ledger.images.finish(image, owner, "done")
        return
    entry = _entry(store, image)
    write_failure(
        store,
        batch=image.batch,
        index=image.index,
        name=entry.name if entry else "",
        source=entry.source if entry else None,
        reason=why.reason,
        message=f"{why}: it was delivered {deliveries} times; retry the batch's failures, which sends a new "
        f"message",
        permanent=True,
        attempts=deliveries,
    )
    if ledger.images.finish(image, owner, "failed", why.reason):
        _count(image.batch, image.index, why.reason)


def _entry(store: ObjectStore, image: ImageRef) -> ManifestEntry | None:
    """The image's line of the manifest; none if that cannot be read either."""
    part, n = layout.part_of(image.index)
    try:
        return read_manifest_part(store, image.batch, part)[n]
    except (PermanentError, IndexError):
        return None


def _has_result(store: ObjectStore, job: ImageJob | ImageRef) -> bool:
    try:
        store.get(store.bucket, layout.result(job.batch, job.index))
    except ObjectNotFound:
        return False
    return True


def _count(batch: str, index: int, reason: str) -> None:
    metrics.IMAGES.labels("failed").inc()
    metrics.FAILURES.labels(reason).inc()
    _log.info("failed", batch=batch, index=index, reason=reason)
