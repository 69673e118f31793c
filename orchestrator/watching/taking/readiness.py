"""Readiness: what may be taken in now, what must wait, and what is never taken in."""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from dermbatch.errors import ObjectNotFound
from dermbatch.store import ObjectInfo, ObjectStore, split_uri
from orchestrator.watching.rules.rules import Rule

_UNFINISHED = frozenset({".tmp", ".part", ".partial", ".filepart"})
"""How file gateways name what they are still writing."""

_MARKERS_KEPT = 10_000


def is_unfinished(info: ObjectInfo) -> bool:
    """Whether an object is not meant as input: empty, a folder placeholder, hidden, or still being written."""
    name = info.key.rpartition("/")[2]
    hidden = not name or name.startswith(".")
    return not info.size or hidden or PurePosixPath(name).suffix.lower() in _UNFINISHED


def is_settled(rule: Rule, info: ObjectInfo, now: datetime) -> bool:
    """Whether an object has been unchanged for as long as its rule wants.

    Args:
        rule: The rule.
        info: The object.
        now: By the clock that told when it was modified.
    """
    return not rule.settle or info.modified is None or now - info.modified >= timedelta(seconds=rule.settle)


class Markers:
    """Looks for markers; each folder is asked for once until :meth:`forget`.

    Args:
        store: Where they are.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._known: OrderedDict[tuple[str, str], datetime | None] = OrderedDict()

    def forget(self) -> None:
        """Look again from now on."""
        self._known.clear()

    def there(self, rule: Rule, bucket: str, info: ObjectInfo) -> bool:
        """Whether the rule's marker, if it has one, lies beside the object or above it, and is not older.

        Raises:
            StoreUnavailable, StoreRefused: If the store fails.
        """
        if rule.marker is None:
            return True
        top = split_uri(rule.prefix)[1]
        folder = info.key
        while folder != top:
            folder = folder.rstrip("/").rpartition("/")[0]
            folder += "/" if folder else ""
            written = self._written(bucket, folder + rule.marker)
            # Whole seconds: that is all that an answer about one object tells, while a listing may tell more.
            if written and info.modified and int(written.timestamp()) >= int(info.modified.timestamp()):
                return True
        return False

    def _written(self, bucket: str, key: str) -> datetime | None:
        if (bucket, key) not in self._known:
            try:
                self._known[bucket, key] = self._store.stat(bucket, key).modified
            except ObjectNotFound:
                self._known[bucket, key] = None
            if len(self._known) > _MARKERS_KEPT:
                self._known.popitem(last=False)
        return self._known[bucket, key]
