"""Listing: the objects below the prefixes of rules, page by page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

import structlog

from dermbatch.errors import DermbatchError
from dermbatch.store import ObjectInfo, ObjectStore, split_uri

_log = structlog.get_logger(__name__)

_AT_A_TIME = 256


@dataclass
class Listing:
    """One walk through prefixes.

    Attributes:
        pages: Bucket and objects, some at a time.
        everything: Whether these are the prefixes of all rules.
        whole: Whether all of them could be listed so far.
        waiting: Objects that were found and are not ready.
        oldest: When the oldest of them was written.
        held: Objects that wait for a quota, by tenant.
    """

    pages: Iterator[tuple[str, list[ObjectInfo]]] = field(default_factory=lambda: iter(()))
    everything: bool = False
    whole: bool = True
    waiting: int = 0
    oldest: datetime | None = None
    held: Counter[str] = field(default_factory=Counter)

    def wait_for(self, info: ObjectInfo) -> None:
        """Note an object that is not ready."""
        self.waiting += 1
        if info.modified is not None and (self.oldest is None or info.modified < self.oldest):
            self.oldest = info.modified


def listing(store: ObjectStore, prefixes: Sequence[str], *, everything: bool) -> Listing:
    """List prefixes; one that cannot be listed does not hold up others.

    Args:
        store: Where they are.
        prefixes: As ``s3://bucket/prefix``; what lies below another one of them is listed with that one alone.
        everything: Whether these are the prefixes of all rules.
    """
    made = Listing(everything=everything)
    made.pages = _pages(store, _topmost(prefixes), made)
    return made


def _pages(store: ObjectStore, prefixes: Iterable[str], made: Listing) -> Iterator[tuple[str, list[ObjectInfo]]]:
    for prefix in prefixes:
        bucket, key = split_uri(prefix)
        infos = store.list(bucket, key)
        while True:
            try:
                some = list(islice(infos, _AT_A_TIME))
            except DermbatchError as error:
                made.whole = False
                _log.warning("prefix not listed", bucket=bucket, reason=error.reason)
                break
            if not some:
                break
            yield bucket, some


def _topmost(prefixes: Iterable[str]) -> list[str]:
    found: list[str] = []
    for prefix in sorted(prefixes):
        if not found or not prefix.startswith(found[-1]):
            found.append(prefix)
    return found
