"""What was taken in already, on disk: a set of millions would not fit into a process's memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime

from dermbatch.store import ObjectInfo, ObjectStore
from orchestrator.planning.scratch import scratch_database


def origin_of(bucket: str, info: ObjectInfo, *, timed: bool = False) -> str:
    """The identity of an object, in 32 hexadecimal digits.

    The same content under the same key has the same origin, as long as its ETag is the same. Different content has
    a different origin, except in stores whose ETags are not digests: so :class:`Taken` also keeps the time of
    each.

    Args:
        bucket: Where it is.
        info: The object.
        timed: Whether the time is a part of it, as it is where there is no ETag.
    """
    version = info.etag or info.modified
    identity = f"{bucket}/{info.key}\n{version}\n{info.size}"
    if timed:
        identity += f"\n{_milliseconds(info.modified)}"
    return hashlib.sha256(identity.encode("utf-8", "surrogateescape")).hexdigest()[:32]


class Taken:
    """Origins of objects that were taken in, and of those that hold no image, with the time that each was of.

    It is gone with the process: what lasts are the manifests.
    """

    def __init__(self) -> None:
        self._base = scratch_database(
            "CREATE TABLE origins (origin BLOB PRIMARY KEY, modified INTEGER) WITHOUT ROWID"
        )

    def add(self, origins: Iterable[tuple[str, datetime | None]]) -> None:
        """Note origins, noted already or not, each with when its object was last modified, if that is known."""
        rows = ((bytes.fromhex(origin), _milliseconds(modified)) for origin, modified in origins)
        self._base.executemany(
            "INSERT INTO origins VALUES (?, ?) ON CONFLICT (origin) DO UPDATE SET modified = excluded.modified",
            rows,
        )

    def is_of(self, origin: str, modified: datetime | None) -> bool:
        """Whether the origin was noted with this time."""
        found = self._base.execute("SELECT modified FROM origins WHERE origin = ?", (bytes.fromhex(origin),))
        row = found.fetchone()
        return row is not None and _same(row[0], _milliseconds(modified))

    def __contains__(self, origin: str) -> bool:
        found = self._base.execute("SELECT 1 FROM origins WHERE origin = ?", (bytes.fromhex(origin),))
        return found.fetchone() is not None

    def close(self) -> None:
        """Give the file back."""
        self._base.close()


def is_still(store: ObjectStore, bucket: str, info: ObjectInfo) -> bool:
    """Whether an object that was overwritten, with the same ETag, is the same: if that is the MD5 of its bytes.

    Raises:
        StoreUnavailable, StoreRefused: If the store fails.
    """
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in store.chunks(bucket, info.key):
        digest.update(chunk)
    return digest.hexdigest() == info.etag


def same_time(noted: datetime | None, told: datetime | None) -> bool:
    """Whether two answers tell the same time: listings tell milliseconds, others seconds, old records none."""
    return _same(_milliseconds(noted), _milliseconds(told))


def _same(noted: int | None, told: int | None) -> bool:
    if noted is None or told is None or noted == told:
        return True
    return noted // 1000 == told // 1000 and 0 in (noted % 1000, told % 1000)


def _milliseconds(time: datetime | None) -> int | None:
    return None if time is None else int(time.timestamp() * 1000)
