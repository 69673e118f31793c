"""Reads a manifest onwards, part by part, skipping what already has its outcome."""

from __future__ import annotations

from collections import deque

from dermbatch import layout
from dermbatch.ledger import Ledger
from dermbatch.records.asked import Batch, ManifestEntry
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_manifest_part


class Feed:
    """The entries of a batch that still lack an outcome, in order; one part in memory at a time.

    Args:
        store: Holds the manifest.
        ledger: Knows what has its outcome.
        batch: The batch as it is now; for one that takes images in, set this again when it has more.
        start: The index to begin with.

    Attributes:
        batch: As above.
        position: The index after the last entry taken or passed over.
    """

    def __init__(self, store: ObjectStore, ledger: Ledger, batch: Batch, start: int) -> None:
        self._store = store
        self._ledger = ledger
        self.batch = batch
        self._read = start  # the first index of what was not read yet
        self._entries: deque[ManifestEntry] = deque()
        self.position = start

    def take(self, count: int) -> list[ManifestEntry]:
        """Up to ``count`` entries; fewer, or none, only where a part or the batch ends.

        Raises:
            PermanentError: If the manifest is damaged.
        """
        while not self._entries and self._read < self.batch.images:
            self._read_part()
        taken = [self._entries.popleft() for _ in range(min(count, len(self._entries)))]
        self.position = self._entries[0].index if self._entries else self._read
        return taken

    def _read_part(self) -> None:
        part, offset = layout.part_of(self._read)
        end = min(self._read - offset + layout.PART_SIZE, self.batch.images)
        wanted = set(self._ledger.batches.unfinished(self.batch.name, self._read, end - self._read))
        if wanted:
            grown = self.batch.rule is not None
            entries = read_manifest_part(self._store, self.batch.name, part, images=self.batch.images, grown=grown)
            self._entries.extend(entry for entry in entries if entry.index in wanted)
        self._read = end
