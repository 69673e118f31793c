"""Queues of images for readers: storing them, mixing in known cases, and where a reader stands with a case."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, UsageError
from dermbatch.records.review import Case, Decision, Queue
from dermbatch.store import ObjectStore
from dermbatch.stored import read, write_once

_SHARES = 1 << 32


def add(store: ObjectStore, queue: Queue) -> None:
    """Keep a queue, whoever chose its cases.

    Raises:
        UsageError: If its name is not usable, or is taken.
        StoreUnavailable, StoreRefused: Where trying again may help.
    """
    layout.check_batch_name(queue.name, "queue")
    if not write_once(store, layout.review_queue(queue.name), queue):
        raise UsageError(f"there is a queue {queue.name!r} already; choose another name", reason="name_taken")


def named(store: ObjectStore, name: str) -> Queue:
    """The queue of this name.

    Raises:
        UsageError: If there is none, or none can have this name.
    """
    layout.check_batch_name(name, "queue")
    try:
        return read(store, layout.review_queue(name), Queue)
    except ObjectNotFound as error:
        raise UsageError(f"there is no queue {name!r}") from error


def all_queues(store: ObjectStore) -> list[Queue]:
    """All queues, the newest first."""
    found = [read(store, info.key, Queue) for info in store.list(store.bucket, layout.REVIEW_QUEUES)]
    return sorted(found, key=lambda one: one.made, reverse=True)


def mixed(cases: Sequence[Case], known: Sequence[Case], seed: str) -> tuple[Case, ...]:
    """Cases with known ones mixed in at unpredictable places; the others keep their order.

    Args:
        cases: Those to be read; a known one among them is taken out and placed at random.
        known: The known ones.
        seed: A different one gives different places.
    """
    open_ones = [case for case in cases if case not in set(known)]
    falls = {case: _share(seed, case) * len(open_ones) for case in known}
    ranked = [
        *((place + 0.5, case) for place, case in enumerate(open_ones)),
        *((falls[one], one) for one in known),
    ]
    return tuple(case for _, case in sorted(ranked, key=lambda pair: pair[0]))


def begins_blank(queue: Queue, case: Case, reader: str) -> bool:
    """Whether this reader starts this case on an empty picture; always the same answer."""
    return queue.blind or _share(f"{queue.name}\0{reader}", case) < queue.blank_share


def returned_to(reader: str, found: Iterable[Decision]) -> Decision | None:
    """The last decision returned to a reader who has not corrected it since."""
    last: Decision | None = None
    for decision in sorted(found, key=lambda one: one.made):
        if decision.kind == "return" and decision.to == reader:
            last = decision
        elif decision.reader == reader:
            last = None
    return last


def readers_of(found: Iterable[Decision]) -> set[str]:
    """Who has read an image."""
    return {one.reader for one in found if one.kind == "read"}


def _share(seed: str, case: Case) -> float:
    digest = hashlib.sha256(f"{seed}\0{case.batch}\0{case.index}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / _SHARES
