"""Stored decisions: one object each, written once, and never over another.

A reader's decisions about an image are numbered, and the number is part of the key. So if two follow the same
earlier one, from two windows or from a request sent twice, one is kept and the other is told.
"""

from __future__ import annotations

from collections.abc import Iterator

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, ReviewConflict
from dermbatch.records.outcome import KnownImage, ResultRecord, StageRecord
from dermbatch.records.review import Decision, Unblinded
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from dermbatch.stored import read, read_if_any, write_once


def keep(store: ObjectStore, decision: Decision) -> Decision:
    """Keep a decision.

    Returns:
        What is kept: this decision, or the same one as it was sent before, whatever was run again since.

    Raises:
        ObjectNotFound: If the image has no result (any more).
        ReviewConflict: ``another_image``, if the result is for other bytes than the reader saw; ``newer_results``,
            if a stage was run again since, and the decision does not say that this is known;
            ``decided_meanwhile``, if this version is taken by another decision or skips one.
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    key = layout.decision(decision.batch, decision.index, decision.reader, decision.version)
    earlier = decided(store, decision.batch, decision.index, decision.reader, decision.version)
    if earlier is not None and _same(earlier, decision):
        return earlier
    record = read(store, layout.result(decision.batch, decision.index), ResultRecord)
    if record.source.sha256 != decision.seen.sha256:
        raise ReviewConflict("the image is not the one that the reader saw", reason="another_image")
    pool = layout.pool_of(record.preview)
    newer = newer_results(store, decision.seen.sha256, decision.seen.stages, pool)
    if newer != decision.despite:
        stages = " and ".join(sorted(newer)) or "nothing"
        raise ReviewConflict(
            f"{stages} was run again since the image was shown; look at both results, and decide again",
            reason="newer_results",
        )
    last = _last_version(store, decision)
    if decision.version <= last + 1 and write_once(store, key, decision):
        return decision
    earlier = decided(store, decision.batch, decision.index, decision.reader, decision.version)
    if earlier is not None and _same(earlier, decision):  # sent twice at one time
        return earlier
    raise ReviewConflict(
        f"{decision.reader} has decided {last} times by now; look at the last decision, and decide again",
        reason="decided_meanwhile",
    )


def decisions(store: ObjectStore, batch: str, index: int) -> list[Decision]:
    """All decisions about an image, in the order in which they were made."""
    return sorted(
        _read(store, layout.decisions(batch, index)), key=lambda one: (one.made, one.reader, one.version)
    )


def decided(store: ObjectStore, batch: str, index: int, reader: str, version: int) -> Decision | None:
    """One decision; none if it does not exist."""
    try:
        return read(store, layout.decision(batch, index, reader, version), Decision)
    except ObjectNotFound:
        return None


def note_opened(store: ObjectStore, opened: Unblinded) -> None:
    """Record that a reader has seen what others decided about an image; the first time counts."""
    write_once(store, layout.opened_to(opened.batch, opened.index, opened.reader), opened)


def has_opened(store: ObjectStore, batch: str, index: int, reader: str) -> bool:
    """Whether a reader has."""
    return read_if_any(store, layout.opened_to(batch, index, reader), Unblinded) is not None


def latest(found: list[Decision]) -> dict[str, Decision]:
    """The last decision of each reader, whatever came before it."""
    last: dict[str, Decision] = {}
    for decision in sorted(found, key=lambda one: one.version):
        last[decision.reader] = decision
    return last


def of_batch(store: ObjectStore, batch: str) -> Iterator[Decision]:
    """All decisions about a batch, image by image, in memory that does not grow with them."""
    yield from _read(store, layout.batch_decisions(batch))


def newer_results(
    store: ObjectStore, sha256: str, seen: dict[Stage, str], pool: str | None = None
) -> dict[Stage, str]:
    """The stages of an image that were run again since, with their latest keys.

    Args:
        store: Has what is known about the image.
        sha256: The image.
        seen: The keys that were shown.
        pool: Whose results are searched.
    """
    known = read_if_any(store, layout.known_of(sha256, pool), KnownImage)
    last: dict[Stage, StageRecord] = {} if known is None else {one.stage: one for one in known.stages.values()}
    return {stage: last[stage].key for stage, key in seen.items() if stage in last and last[stage].key != key}


def _same(one: Decision, other: Decision) -> bool:
    """Whether the same decision was sent twice: only the time may differ."""
    return one.model_copy(update={"made": other.made}) == other


def _last_version(store: ObjectStore, decision: Decision) -> int:
    prefix = layout.reader_decisions(decision.batch, decision.index, decision.reader)
    names = (info.key.rpartition("/")[2] for info in store.list(store.bucket, prefix))
    return max((int(name.removesuffix(".json")) for name in names), default=0)


def _read(store: ObjectStore, prefix: str) -> Iterator[Decision]:
    for info in store.list(store.bucket, prefix):
        yield read(store, info.key, Decision)
