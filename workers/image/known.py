"""What is known of an image from earlier runs: an action cache, as in build systems, one object an image.

Written after the artifacts that it names. If two workers write at the same time, the last one wins, and what the
other knew is computed again when needed: this costs nothing but time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

import structlog

from dermbatch import layout
from dermbatch.errors import NewerFormat, ObjectBrokeOff, PermanentError, RecordDamaged
from dermbatch.records.outcome import ImageInfo, KnownImage, StageRecord
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write
from workers.image.source import Source, Stopwatch

Value = TypeVar("Value")

_log = structlog.get_logger(__name__)

# Every model ever tried leaves records here, and each job reads them all: those unused for long are dropped.
_STAGES_MOST = 32
_PREVIEWS_MOST = 8


def recall(store: ObjectStore, source: Source, stopwatch: Stopwatch) -> tuple[str, KnownImage] | None:
    """What is known of an image, and of which content; none if nothing is, or it cannot be read.

    Only a digest of the bytes says which image it is: the one that planning computed on uploading them, else one
    that the store vouches for, else that of the bytes as read here. An ETag proves nothing.

    Raises:
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    for content in _contents(source):
        with stopwatch("read"):
            known = _read(store, layout.known(content, source.pool))
        if known is not None and known.image.sha256.startswith(content):
            return content, known
    return None


def _contents(source: Source) -> Iterator[str]:
    """What identifies the source's content, by the cheapest proof only: if it fails, everything is computed."""
    if (planned := source.planned) is not None:
        yield planned
    elif (vouched := source.vouched) is not None:
        yield vouched
    else:
        yield source.content


def _read(store: ObjectStore, key: str) -> KnownImage | None:
    try:
        return read(store, key, KnownImage)
    except (RecordDamaged, NewerFormat, ObjectBrokeOff) as error:
        _log.warning("the cached record is unreadable and is computed again", key=key, reason=error.reason)
        return None
    except PermanentError:  # missing; if keys may not be listed, S3 calls that "access denied"
        return None


def remember(store: ObjectStore, content: str, known: KnownImage, pool: str | None = None) -> None:
    """Write what is known for all who share it, replacing what was there.

    Raises:
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    write(store, layout.known(content, pool), known)


def extended(
    known: KnownImage | None, image: ImageInfo, stages: Mapping[str, StageRecord], previews: Mapping[str, bytes]
) -> KnownImage:
    """What was known plus what was made now; anything unused for long is dropped.

    Args:
        known: What was read; none if nothing was known.
        image: The image.
        stages: Records made or used now, by stage key.
        previews: Previews made now, by preview key.
    """
    old_stages, old_previews = (known.stages, known.previews) if known else ({}, {})
    return KnownImage(
        image=image,
        stages=_latest(old_stages, stages, _STAGES_MOST),
        previews=_latest(old_previews, previews, _PREVIEWS_MOST),
    )


def _latest(old: Mapping[str, Value], new: Mapping[str, Value], most: int) -> dict[str, Value]:
    """Both, with new entries last (JSON keeps the order), but at most ``most`` of them."""
    both = {**{key: value for key, value in old.items() if key not in new}, **new}
    return dict(list(both.items())[-most:])
