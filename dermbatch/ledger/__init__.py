"""The ledger in Redis: who works on which image, until when, and what is finished.

One sorted set holds the images in flight (score: when to look at it again, milliseconds by Redis's own clock, so
that no worker's clock matters), and two bitmaps a batch hold what is done and what failed. Each move is one Lua
script, so each is atomic; putting an image in flight and its message into the queue is one move. Memory is
O(window) + 2 bits an image.

Where one Redis is not enough, several share the batches: each batch is one shard's, as its name says, with its
own orchestrators and workers. Nothing is shared between shards but the object store.

The ledger is live state, not the record: result records in the object store are, and the ledger can be built
again from them.
"""

from __future__ import annotations

import zlib

from dermbatch.ledger.batches import Batches, BatchState
from dermbatch.ledger.connection import Connection
from dermbatch.ledger.images import Claim, Due, Images, Member, Message
from dermbatch.ledger.slots import Slots
from dermbatch.ledger.snapshot import Snapshot, merged, take_snapshot
from dermbatch.settings import LedgerSettings, RedisSettings

__all__ = ["BatchState", "Claim", "Due", "Ledger", "Member", "Message", "Snapshot"]


class Ledger:
    """All of the ledger, of one shard where there are several; make one after a fork.

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
        """Whether a batch is this shard's; all are, where there is but one."""
        return self._url_of(batch) == self._redis_settings.url

    def of(self, batch: str) -> Ledger:
        """The ledger of the shard that a batch is of."""
        return self._at(self._url_of(batch))

    def snapshot(self) -> Snapshot:
        """How all stands in this shard; raises :class:`LedgerUnavailable` where Redis does not answer."""
        return take_snapshot(self._connection)

    def everywhere(self) -> Snapshot:
        """How all stands in all shards; raises :class:`LedgerUnavailable` where one does not answer."""
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
