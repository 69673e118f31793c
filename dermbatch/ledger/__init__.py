"""The ledger in Redis: who works on which image, until when, and what is finished.

One sorted set holds the images in flight (score: when to look at it again, milliseconds by Redis's own clock, so
that no worker's clock matters), and two bitmaps a batch hold what is done and what failed. Each move is one Lua
script, so each is atomic; putting an image in flight and its message into the queue is one move. Memory is
O(window) + 2 bits an image.

The ledger is live state, not the record: result records in the object store are, and the ledger can be built
again from them.
"""

from __future__ import annotations

from dermbatch.ledger.batches import Batches, BatchState
from dermbatch.ledger.connection import Connection
from dermbatch.ledger.images import Claim, Due, Images, Member, Message
from dermbatch.ledger.slots import Slots
from dermbatch.ledger.snapshot import Snapshot, take_snapshot
from dermbatch.settings import LedgerSettings, RedisSettings

__all__ = ["BatchState", "Claim", "Due", "Ledger", "Member", "Message", "Snapshot"]


class Ledger:
    """All of the ledger; make one after a fork.

    Attributes:
        images: Those in flight.
        batches: Those that are open.
        slots: Who is there: worker slots, and the orchestrator that leads.
    """

    def __init__(self, redis_settings: RedisSettings, settings: LedgerSettings) -> None:
        self._connection = Connection(redis_settings)
        self.images = Images(self._connection, settings)
        self.batches = Batches(self._connection)
        self.slots = Slots(self._connection)

    def snapshot(self) -> Snapshot:
        """How all stands; raises :class:`LedgerUnavailable` where Redis does not answer."""
        return take_snapshot(self._connection)
