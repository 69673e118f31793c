"""What is known of an image from earlier runs: an action cache, as build systems have it, one object an image.

Written after the artifacts that it names. Of two workers that write at the same time the last one wins, and what
the other knew is computed again when it is next asked for: nothing depends on it but time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import structlog

from dermbatch import layout
from dermbatch.errors import NewerFormat, PermanentError, RecordDamaged
from dermbatch.records import ImageInfo, KnownImage, StageRecord
from dermbatch.records.stored import read, write
from dermbatch.store import ObjectStore

Value = TypeVar("Value")

_log = structlog.get_logger(__name__)

# Every model that was ever tried leaves its records here, and each job reads them: those not used for long go.
_STAGES_MOST = 32
_PREVIEWS_MOST = 8


def recall(store: ObjectStore, fingerprint: str) -> KnownImage | None:
    """What is known of the image with this fingerprint; none where nothing is, or nothing that can be read.

    Raises:
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    try:
        return read(store, layout.known(fingerprint), KnownImage)
    except (RecordDamaged, NewerFormat) as error:
        _log.warning("what was known is unreadable and is made anew", fingerprint=fingerprint, reason=error.reason)
        return None
    except PermanentError:  # not there; where keys may not be listed, S3 calls that "access denied"
        return None


def remember(store: ObjectStore, fingerprint: str, known: KnownImage) -> None:
    """Write what is known, over what was.

    Raises:
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    write(store, layout.known(fingerprint), known)


def extended(
    known: KnownImage | None, image: ImageInfo, stages: Mapping[str, StageRecord], previews: Mapping[str, bytes]
) -> KnownImage:
    """What was known and what was made now; what was not used for long is forgotten.

    Args:
        known: As it was read; none where nothing was.
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
    """Both, what is new last (JSON keeps the order), and no more than ``most`` of them."""
    both = {**{key: value for key, value in old.items() if key not in new}, **new}
    return dict(list(both.items())[-most:])
