"""A worker process's connections, made after the fork, and its name."""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from dermbatch.audit import Audit
from dermbatch.bounded.nursery import Nursery
from dermbatch.bounded.reader import Reader
from dermbatch.errors import LedgerUnavailable
from dermbatch.handover.pacs.stow import NOWHERE, Destinations
from dermbatch.images.imagefile import MODULES, Decode, read_image
from dermbatch.images.pixels import SourceImage
from dermbatch.ledger import Ledger
from dermbatch.records.outcome import ResultRecord
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from workers.image.lastfile import LastFile
from workers.inference.protocol import Inference
from workers.process.drain import Drain
from workers.process.journey import process
from workers.process.lease import LeaseKeeper
from workers.process.shadow import run_shadow

_log = structlog.get_logger(__name__)

Process = Callable[..., ResultRecord]
Shadow = Callable[..., None]

T = TypeVar("T")


@dataclass
class Workplace:
    """Everything that one worker process works with.

    Attributes:
        settings: All settings.
        store: The object store.
        ledger: The ledger.
        client: The engine that runs the models.
        keeper: Extends the lease of the current image.
        drain: Whether and when the worker ends.
        slot: Name of this process.
        process: The pipeline, from job to result record.
        shadow: A canary's side run.
        destinations: The PACS of the settings.
        decode: Decodes source images.
        last: The file that was read for the previous image.
        patience: Seconds for which reports are repeated while Redis does not answer.
    """

    settings: Settings
    store: ObjectStore
    ledger: Ledger
    client: Inference
    keeper: LeaseKeeper
    drain: Drain
    slot: str
    process: Process = process
    shadow: Shadow = run_shadow
    destinations: Destinations = NOWHERE
    decode: Decode = read_image
    last: LastFile = field(default_factory=LastFile)
    patience: float = 30.0
    _claims: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    def open(
        cls,
        settings: Settings,
        drain: Drain,
        engine: Callable[[], Inference],
        process: Process = process,
        nursery: Nursery | None = None,
    ) -> Workplace:
        """Connect, and start to report this process as a worker slot.

        Args:
            settings: All settings.
            drain: When the worker ends.
            engine: Makes the engine that runs the models.
            process: The pipeline.
            nursery: Makes the processes in which untrusted files are read; by default one of its own.
        """
        slot = f"{socket.gethostname()}/{os.getpid()}"
        ledger = Ledger(settings.redis, settings.ledger)
        keeper = LeaseKeeper(ledger, slot, settings.ledger.heartbeat, drain)
        keeper.start()
        store = ObjectStore(settings.store, Audit(settings.audit, "worker"))
        return cls(
            settings,
            store,
            ledger,
            engine(),
            keeper,
            drain,
            slot,
            process,
            destinations=Destinations(settings.dicomweb),
            decode=_decoding(Reader(settings.reading.limits, MODULES, nursery)),
        )

    def close(self) -> None:
        """Stop reporting, and close the engine and the connections."""
        self.keeper.stop()
        self.client.close()
        self.destinations.close()

    def new_owner(self) -> str:
        """A name for one claim: if this process claims the same image again, it does so under another name."""
        return f"{self.slot}/{next(self._claims)}"

    def insist(self, ask: Callable[[], T]) -> T | None:
        """Call the ledger, repeatedly for a while if Redis does not answer.

        Returns:
            Its answer, or ``None`` if there was none. The lease runs out then, and the next attempt goes on from
            what is recorded.
        """
        try:
            return ask()
        except LedgerUnavailable:  # seldom: what comes now is not worth its time for every image
            pass
        asking = Retrying(
            stop=stop_after_delay(self.patience),
            wait=wait_random_exponential(multiplier=0.1, max=5),
            retry=retry_if_exception_type(LedgerUnavailable),
            reraise=True,
        )
        try:
            return asking(ask)
        except LedgerUnavailable:
            _log.warning("the ledger could not be told: the lease will run out")
            return None


def _decoding(reader: Reader) -> Decode:
    """Decoding where it can be stopped."""

    def decode(data: bytes, *, max_pixels: int, frame: int | None = None) -> SourceImage:
        return reader.run(read_image, data, max_pixels=max_pixels, frame=frame)

    return decode
