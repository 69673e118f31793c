"""What a leading watcher knows: what was taken in, and the batches that take images in.

All of it is read from the object store, when a watcher takes the lead or has been overtaken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from dermbatch import layout
from dermbatch.errors import ObjectNotFound
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Batch, ManifestEntry
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import part_entries, read_manifest_part, read_version
from orchestrator.batches.outcomes import in_order
from orchestrator.watching.taking.gathering import Gathering
from orchestrator.watching.taking.taken import Taken, same_time

_log = structlog.get_logger(__name__)

_READERS = 8


@dataclass(frozen=True)
class Half:
    """The object taken in last, perhaps only in part if it is an archive.

    Attributes:
        gathering: Where to.
        images: How many of it.
        modified: When it was last modified.
        held: Whether the rest waits for a quota: until it has come, nothing is written after it.
    """

    gathering: Gathering
    images: int
    modified: datetime | None = None
    held: bool = False


@dataclass
class Memory:
    """All that a leading watcher knows.

    Attributes:
        taken: Origins of the objects that were taken in whole, or hold no image.
        gatherings: The batches that take images in, by the names of their rules.
        former: Others of the same rules that still do, and must be sealed.
        half: Objects that were maybe taken in only in part, by origin.
    """

    taken: Taken = field(default_factory=Taken)
    gatherings: dict[str, Gathering] = field(default_factory=dict)
    former: list[Gathering] = field(default_factory=list)
    half: dict[str, Half] = field(default_factory=dict)

    def was_of(self, origin: str, modified: datetime | None) -> bool | None:
        """Whether the origin belonged to an object with this time; none if it is new."""
        if (half := self.half.get(origin)) is not None:
            return same_time(half.modified, modified)
        return self.taken.is_of(origin, modified) if origin in self.taken else None

    def settle(self, held: Collection[str]) -> None:
        """Call this once all objects have been looked at: what was taken in part and is gone stays so.

        Args:
            held: Tenants that nothing was taken in for: their objects may still be there.
        """
        for origin, half in list(self.half.items()):
            if half.gathering.batch.order.tenant not in held:
                self.taken.add([(origin, half.modified)])
                del self.half[origin]

    def waits(self, gathering: Gathering) -> bool:
        """Whether a batch still waits for the rest of an archive."""
        return any(half.gathering is gathering for half in self.half.values())

    def keeps_back(self, rule: str, origin: str) -> bool:
        """Whether the rule's batch waits for the rest of another object, for which a quota had no room.

        Anything written after that part would hide it, because a starting watcher looks only at the last one.
        """
        there = self.gatherings.get(rule)
        return any(half.held and half.gathering is there and other != origin for other, half in self.half.items())

    def close(self) -> None:
        """Give up the files."""
        for gathering in (*self.gatherings.values(), *self.former):
            gathering.close()
        self.taken.close()


def recall(store: ObjectStore, ledger: Ledger, check: Callable[[], None]) -> Memory:
    """Read all that was taken in, and take over the batches that grow.

    Args:
        store: Where it is.
        ledger: Is told what the batches have grown to.
        check: Called before anything is written; raises where this watcher is not to write.

    Raises:
        Overtaken: If another watcher does the same.
        PermanentError: With reason ``manifest_damaged``: without all manifests it is unknown what was taken in.
        StoreUnavailable, StoreRefused: If the store fails.
    """
    memory = Memory()
    try:
        for name in store.folders(store.bucket, layout.BATCHES):
            if name.startswith(layout.WATCHED):
                check()
                _recall(store, ledger, name, memory)
    except BaseException:
        memory.close()
        raise
    return memory


def _recall(store: ObjectStore, ledger: Ledger, name: str, memory: Memory) -> None:
    try:
        batch, etag = read_version(store, name)
    except ObjectNotFound:  # a plan of the user's own
        return
    if batch.rule is None or etag is None:
        return
    if not batch.growing:
        for entries in _parts(store, batch):
            memory.taken.add((entry.origin, entry.modified) for entry in entries if entry.origin is not None)
        return
    gathering = Gathering(store, ledger, batch, etag)
    memory.former.append(gathering)
    _go_on(store, gathering, memory)
    memory.former.remove(gathering)
    if (other := memory.gatherings.get(batch.rule)) is not None:
        memory.former.append(other)
    memory.gatherings[batch.rule] = gathering
    _log.info("batch continued", batch=name, rule=batch.rule, images=gathering.images)


def _parts(store: ObjectStore, batch: Batch) -> Iterator[list[ManifestEntry]]:
    """The manifest of a batch that takes in no more."""
    names = (layout.part_of(first)[0] for first in range(0, batch.images, layout.PART_SIZE))
    yield from in_order(
        lambda part: read_manifest_part(store, batch.name, part, images=batch.images, grown=True), names, _READERS
    )


def _go_on(store: ObjectStore, gathering: Gathering, memory: Memory) -> None:
    """Read the manifest as far as it is written: the record may be behind it."""
    name = gathering.batch.name
    number, last, images = 0, None, 0
    modified: datetime | None = None
    while True:
        part = f"{number:06d}"
        try:
            body, etag = store.read(store.bucket, layout.manifest_part(name, part))
        except ObjectNotFound:
            body, etag = b"", None
            break
        entries = part_entries(body, name, part)
        for entry in entries:
            gathering.remember(entry)
            if entry.origin == last:
                images += 1
                continue
            if last is not None:
                memory.taken.add([(last, modified)])
            last, images, modified = entry.origin, 1, entry.modified
        if len(entries) < layout.PART_SIZE:
            break
        number += 1
    gathering.take_over(number, body, etag)
    if last is not None:
        memory.half[last] = Half(gathering, images, modified)
