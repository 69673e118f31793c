"""The ledger in Redis: who works on which image, until when, and what is finished.

One sorted set holds the images in flight (score: when to look at an image again, in milliseconds by Redis's own
clock, so that no worker's clock matters), and two bitmaps per batch record which images are done and which failed.
Each move is one Lua script and so atomic; putting an image in flight and its message into the queue is one move.
Memory is O(window) + 2 bits per image.

If one Redis is not enough, several share the batches: each batch belongs to one shard, which follows from its
name, with its own orchestrators and workers. Shards have only the object store in common.

The ledger is live state, not the record: that is the result records in the object store, and the ledger can be
rebuilt from them.
"""

from __future__ import annotations

import zlib

from dermbatch.ledger.batches import Batches, BatchState
from dermbatch.ledger.connection import Connection
from dermbatch.ledger.images import Claim, Due, ImageRef, Images, Message
from dermbatch.ledger.slots import Slots
from dermbatch.ledger.snapshot import Snapshot, merged, take_snapshot
from dermbatch.settings import LedgerSettings, RedisSettings

__all__ = ["BatchState", "Claim", "Due", "ImageRef", "Ledger", "Message", "Snapshot"]


class Ledger:
    """The whole ledger, or that of one shard if there are several; make one after a fork.

    Attributes:
        images: Those in flight.
        batches: Those that are open.
        slots: Who is there: worker slots, and the orchestrator that leads.
    """

    def __init__(self, redis_settings: RedisSettings, settings: LedgerSettings) -> None:
        self._redis_settings, self._settings = redis_settings, settings
        self._connection = Connection(redis_settings)
        self._shards: dict[str, Ledger] = {redis_settings.url: self}
        self.images = Images(self._connection, settings)
        self.batches = Batches(self._connection)
        self.slots = Slots(self._connection)

    def owns(self, batch: str) -> bool:
        """Whether a batch belongs to this shard; all do if there is only one."""
        return self._url_of(batch) == self._redis_settings.url

    def of(self, batch: str) -> Ledger:
        """The ledger of the shard that a batch belongs to."""
        return self._at(self._url_of(batch))

    def snapshot(self) -> Snapshot:
        """How everything stands in this shard; raises :class:`LedgerUnavailable` if Redis does not answer."""
        return take_snapshot(self._connection)

    def everywhere(self) -> Snapshot:
        """How everything stands in all shards; raises :class:`LedgerUnavailable` if one does not answer."""
        return merged([shard.snapshot() for shard in self.all_shards()])

    def all_shards(self) -> list[Ledger]:
        """The ledgers of all shards, this one among them."""
        return [self._at(url) for url in self._redis_settings.shard_urls or (self._redis_settings.url,)]

    def _url_of(self, batch: str) -> str:
        urls = self._redis_settings.shard_urls
        return urls[zlib.crc32(batch.encode()) % len(urls)] if urls else self._redis_settings.url

    def _at(self, url: str) -> Ledger:
        if url not in self._shards:
            self._shards[url] = Ledger(self._redis_settings.model_copy(update={"url": url}), self._settings)
        return self._shards[url]
