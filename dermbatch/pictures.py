"""Pictures of an image that the store has as what differs from their source: made whole again, or refused.

What is needed for it is the source object as it was, and a decoder that gives the same pixels as then: each is
looked at by its digest, so that a picture comes out as it was made, or not at all.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dermbatch import layout
from dermbatch.errors import ArtifactDamaged, BadInput, ObjectNotFound, PermanentError, SourceGone
from dermbatch.images import difference, png
from dermbatch.images.imagefile import read_image
from dermbatch.records.marks import marked_png
from dermbatch.records.outcome import Difference, SourceInfo, StageRecord
from dermbatch.store import ObjectStore, split_uri
from dermbatch.stored import damaged, written_as

Picture = NDArray[np.uint8]

_AGAIN = "give the image once more, and the picture is made again"

_AT_A_TIME = 2  # pictures of many megapixels in memory, however many threads there are

_decoding = threading.Semaphore(_AT_A_TIME)


def digest(picture: Picture) -> str:
    """By what a picture is known, however it is encoded: the SHA-256 of its pixels, uint8 RGB in rows."""
    return hashlib.sha256(np.ascontiguousarray(picture).data).hexdigest()


def differences(store: ObjectStore, kept: Difference) -> bytes:
    """The differences themselves, as they were written.

    Raises:
        ObjectNotFound: If their object was deleted.
        ArtifactDamaged: If they have changed.
    """
    body = kept.body if kept.key is None else store.get(store.bucket, kept.key)
    if body is None or written_as(body) != kept.written:
        raise damaged(kept.key or "what a record holds of a picture", len(body or b""), kept.written)
    return body


def whole(store: ObjectStore, kept: Difference, source: Callable[[], Picture]) -> Picture:
    """A picture, uint8 [H, W, 3] RGB, of its differences and the source that they are from.

    Args:
        store: Has them where they are large.
        kept: What the record says of it.
        source: Gives the source's pixels, uint8 [H, W, 3] RGB.

    Raises:
        ObjectNotFound: If the differences were deleted.
        ArtifactDamaged: If they have changed, or the source's pixels have (decoders of another version).
    """
    body = differences(store, kept)
    try:
        picture = difference.apply(body, source())
    except ValueError as error:
        raise ArtifactDamaged(f"a picture cannot be made of its differences: {error}; {_AGAIN}") from error
    if digest(picture) != kept.pixels:
        raise ArtifactDamaged(f"the source decodes to other pixels than when the picture was made; {_AGAIN}")
    return picture


def read_whole(store: ObjectStore, image: SourceInfo, stage: StageRecord, name: str) -> bytes:
    """A PNG file of a picture that a record has as differences.

    Args:
        store: Has the source, and the differences where they are large.
        image: The record's source.
        stage: The stage that made the picture.
        name: Name of the file, one of the stage's ``differences``.

    Raises:
        SourceGone: If the source is, or another object lies there now.
        ObjectNotFound, ArtifactDamaged: As for :func:`whole`.
        StoreUnavailable, StoreRefused: If the store fails.
    """
    source = _source(store, image)
    with _decoding:
        return encoded(whole(store, stage.differences[name], lambda: _pixels(source, image)))


def read_source(store: ObjectStore, image: SourceInfo) -> Picture:
    """The picture that a record is of, as a worker decoded it: uint8 [H, W, 3] RGB.

    Raises:
        SourceGone, ArtifactDamaged, StoreUnavailable, StoreRefused: As for :func:`read_whole`.
    """
    return _pixels(_source(store, image), image)


def encoded(picture: Picture) -> bytes:
    """A picture as the file that records name."""
    return marked_png(png.encode(picture))


def is_same(body: bytes, kept: Difference) -> bool:
    """Whether a PNG file holds the picture that a record has as differences."""
    try:
        with _decoding:
            return digest(png.decode(body)) == kept.pixels
    except ValueError:
        return False


def _source(store: ObjectStore, image: SourceInfo) -> bytes:
    gone = f"{image.uri}, which a picture is kept as differences from, is %s; {_AGAIN}"
    try:
        bucket, key = split_uri(image.uri)
        body = store.get(bucket, key, max_bytes=image.bytes)
    except ValueError as error:
        raise SourceGone(gone % "a file of another machine") from error
    except ObjectNotFound as error:
        raise SourceGone(gone % "gone") from error
    except PermanentError as error:
        if error.reason != "too_large":
            raise
        raise SourceGone(gone % "another object now") from error
    if layout.identity(hashlib.sha256(body).hexdigest(), image.frame) != image.sha256:
        raise SourceGone(gone % "another object now")
    return body


def _pixels(body: bytes, image: SourceInfo) -> Picture:
    try:
        # The very bytes that a worker took, whatever its limit was.
        return read_image(body, max_pixels=sys.maxsize, frame=image.frame).pixels
    except BadInput as error:
        raise ArtifactDamaged(f"{image.uri} cannot be decoded any more: {error}; {_AGAIN}") from error
