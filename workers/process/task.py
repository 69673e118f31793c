"""The one task: claim, process, commit. A thin shell around :mod:`workers.image.run`.

Whatever happens to this process, the ledger still holds the image: it is put back when the lease runs out.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from dermbatch import layout, metrics
from dermbatch.audit import Audit
from dermbatch.errors import (
    DermbatchError,
    LedgerUnavailable,
    PermanentError,
    StoreRefused,
    StoreUnavailable,
)
from dermbatch.failures import write_failure
from dermbatch.ledger import Claim, Ledger
from dermbatch.records import ImageJob, ResultRecord
from dermbatch.records.stored import read_if_any, write_once
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from workers.handover.pacs.stow import NOWHERE, Destinations
from workers.image.run import process
from workers.process.drain import Drain
from workers.process.lease import LeaseKeeper, LeaseLost
from workers.process.shadow import run_shadow
from workers.triton.client import TritonClient

_log = structlog.get_logger(__name__)

Process = Callable[..., ResultRecord]
Shadow = Callable[..., None]

_UNTIL_ORIGINAL = 1.0  # seconds between two looks whether an image's duplicate has its outcome
_MOST_DOUBLINGS = 16

T = TypeVar("T")


@dataclass
class Workplace:
    """What one worker process needs: its connections, made after the fork, and its name.

    Attributes:
        settings: All settings.
        store: The object store.
        ledger: The ledger.
        client: Triton.
        keeper: Keeps the lease of the image in hand.
        drain: Whether the worker ends, and when.
        slot: Name of this process.
        process: The pipeline, from job to result record.
        shadow: A canary's side run.
        destinations: The PACS of the settings.
        patience: Seconds for which news is kept for a Redis that does not answer.
    """

    settings: Settings
    store: ObjectStore
    ledger: Ledger
    client: TritonClient
    keeper: LeaseKeeper
    drain: Drain
    slot: str
    process: Process = process
    shadow: Shadow = run_shadow
    destinations: Destinations = NOWHERE
    patience: float = 30.0
    _claims: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    def open(cls, settings: Settings, drain: Drain, process: Process = process) -> Workplace:
        """Connect, and begin to report this process as a worker slot."""
        slot = f"{socket.gethostname()}/{os.getpid()}"
        ledger = Ledger(settings.redis, settings.ledger)
        keeper = LeaseKeeper(ledger, slot, settings.ledger.heartbeat, drain)
        keeper.start()
        store = ObjectStore(settings.store, Audit(settings.audit, "worker"))
        client = TritonClient(settings.triton)
        return cls(
            settings,
            store,
            ledger,
            client,
            keeper,
            drain,
            slot,
            process,
            destinations=Destinations(settings.dicomweb),
        )

    def close(self) -> None:
        """Stop reporting, and give back what is shared with Triton."""
        self.keeper.stop()
        self.client.close()
        self.destinations.close()

    def new_owner(self) -> str:
        """A name for one claim: the same process claims the same image anew under another name."""
        return f"{self.slot}/{next(self._claims)}"

    def insist(self, ask: Callable[[], T]) -> T | None:
        """Ask the ledger, again and again for a while where Redis does not answer.

        Returns:
            Its answer; ``None`` where there was none: the lease ends then, and the next attempt goes on from what
            is recorded.
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


def process_image(workplace: Workplace, message: dict[str, Any]) -> None:
    """Process one image from message to record.

    Args:
        workplace: This process's connections.
        message: An :class:`ImageJob` as JSON.

    Raises:
        NewerFormat: Where a later version has written it; the image is sent again.
        LedgerUnavailable: Where Redis is gone; the image is sent again when it is back.
    """
    job = ImageJob.model_validate(message)
    if workplace.drain.over:
        workplace.ledger.give_back(job.batch, job.index)
        return
    with workplace.keeper.working():
        claim = workplace.ledger.claim(job, workplace.new_owner())
        if not isinstance(claim, Claim):
            _log.info("not claimed", batch=job.batch, index=job.index, why=claim)
            return
        if claim.attempt == 1:
            metrics.WAITING_SECONDS.labels(claim.lane).observe(claim.waited)
        workplace.store.audit.purpose = job.member
        with workplace.keeper.hold(claim) as alive:
            record = _attempt(workplace, claim, alive)
        if record is not None and job.shadow is not None:
            workplace.shadow(
                job,
                record,
                store=workplace.store,
                client=workplace.client,
                limits=workplace.settings.worker,
                alive=workplace.keeper.check,
            )


def _attempt(workplace: Workplace, claim: Claim, alive: Callable[[], None]) -> ResultRecord | None:
    """One attempt at a claimed image. Returns its record, if it has one now; whatever else came is dealt with."""
    job = claim.job
    started = time.monotonic()
    try:
        if _must_wait(workplace, claim):
            return None
        record = _recorded(workplace.store, job) if claim.attempt > 1 else None
        if record is None:
            record = workplace.process(
                job,
                store=workplace.store,
                client=workplace.client,
                limits=workplace.settings.worker,
                attempt=claim.attempt,
                worker=workplace.slot,
                alive=alive,
                destinations=workplace.destinations,
            )
            if not _commit(workplace, claim, record):
                return None
    except LeaseLost as lost:
        _log.warning("image left", batch=job.batch, index=job.index, attempt=claim.attempt, why=str(lost))
        if _put_off(workplace, claim, 0, counted=False):  # else it is this worker's no longer
            workplace.drain.count_given_back()
        return None
    except PermanentError as error:
        _fail(workplace, claim, error.reason, str(error), permanent=True)
        return None
    except Exception as error:
        _postpone_or_fail(workplace, claim, error)
        return None
    if workplace.insist(lambda: workplace.ledger.finish(job, claim.owner, "done")) is not None:
        metrics.IMAGES.labels("done").inc()
        metrics.IMAGE_SECONDS.observe(time.monotonic() - started)
        workplace.drain.count_finished()
    return record


def _must_wait(workplace: Workplace, claim: Claim) -> bool:
    """Whether the same content has no outcome yet elsewhere in the batch: it is put off, for the cache's sake."""
    job = claim.job
    original = job.duplicate_of
    if original is None or workplace.insist(lambda: workplace.ledger.is_finished(job.batch, original)):
        return False
    _put_off(workplace, claim, _UNTIL_ORIGINAL, counted=False)
    return True


def _recorded(store: ObjectStore, job: ImageJob) -> ResultRecord | None:
    """The record, where an earlier attempt wrote it, but could not say so to the ledger."""
    return read_if_any(store, layout.result(job.batch, job.index), ResultRecord)


def _commit(workplace: Workplace, claim: Claim, record: ResultRecord) -> bool:
    """Write the result record; ``False`` where it could not be written, which costs the image no try."""
    job = claim.job
    try:
        first = write_once(workplace.store, layout.result(job.batch, job.index), record)
    except (StoreUnavailable, StoreRefused) as error:
        _wait_for_store(workplace, claim, error)
        return False
    _log.info(
        "recorded",
        batch=job.batch,
        index=job.index,
        first=first,
        attempt=claim.attempt,
        seconds=record.seconds,
    )
    return True


def _postpone_or_fail(workplace: Workplace, claim: Claim, error: Exception) -> None:
    """A transient failure, or a defect of ours, which is worth another try too."""
    if isinstance(error, StoreRefused):
        # Credentials that expired are no fault of the image, whose failure could not be recorded either.
        _wait_for_store(workplace, claim, error)
        return
    if isinstance(error, DermbatchError):
        reason, message = error.reason, str(error)
        _log.warning("attempt failed", batch=claim.job.batch, index=claim.job.index, reason=reason)
    else:
        reason, message = "internal_error", f"the pipeline broke: {type(error).__name__}; see the worker's log"
        _log.exception("attempt broke", batch=claim.job.batch, index=claim.job.index)
    if claim.transients + 1 >= workplace.settings.ledger.max_transient:
        _fail(workplace, claim, reason, message, permanent=False)
    else:
        _postpone(workplace, claim, claim.transients, counted=True)


def _wait_for_store(workplace: Workplace, claim: Claim, error: DermbatchError) -> None:
    """Put an image off while nothing can be recorded of it: neither lost, nor ever poison for that."""
    _log.warning(
        "not recorded",
        batch=claim.job.batch,
        index=claim.job.index,
        reason=error.reason,
        message=str(error),
    )
    _postpone(workplace, claim, claim.attempt - 1, counted=False)


def _postpone(workplace: Workplace, claim: Claim, before: int, *, counted: bool) -> None:
    """Put an image off for a pause that doubles with each one ``before`` it."""
    limits = workplace.settings.ledger
    longest = min(limits.longest_pause, limits.first_pause * 2 ** min(before, _MOST_DOUBLINGS))
    pause = longest * random.uniform(0.5, 1)  # noqa: S311 - equal pauses would come back as one herd
    if _put_off(workplace, claim, pause, counted=counted):
        metrics.IMAGES.labels("retried").inc()
        workplace.drain.count_finished()


def _put_off(workplace: Workplace, claim: Claim, pause: float, *, counted: bool) -> bool:
    """Hand an image back to the ledger; ``False`` where the lease was lost, or Redis did not answer."""
    transients = workplace.insist(lambda: workplace.ledger.postpone(claim, pause, counted=counted))
    return transients is not None and transients >= 0


def _fail(workplace: Workplace, claim: Claim, reason: str, message: str, *, permanent: bool) -> None:
    """Write the failure record, then tell the ledger; where it cannot be written, the image is put off."""
    job = claim.job
    try:
        write_failure(
            workplace.store,
            batch=job.batch,
            index=job.index,
            name=job.name,
            source=job.source,
            reason=reason,
            message=message,
            permanent=permanent,
            attempts=claim.attempt,
        )
    except (StoreUnavailable, StoreRefused) as error:
        _wait_for_store(workplace, claim, error)
        return
    if workplace.insist(lambda: workplace.ledger.finish(job, claim.owner, "failed", reason=reason)):
        metrics.IMAGES.labels("failed").inc()
        metrics.FAILURES.labels(reason).inc()
        workplace.drain.count_finished()
        _log.info("failed", batch=job.batch, index=job.index, reason=reason, attempts=claim.attempt)
