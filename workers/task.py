"""The one task: claim, process, commit. A thin shell around :mod:`workers.pipeline`.

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
from typing import Any

import structlog

from dermbatch import layout, metrics
from dermbatch.errors import DermbatchError, ObjectNotFound, PermanentError
from dermbatch.failures import write_failure
from dermbatch.ledger import Claim, Ledger
from dermbatch.records import ImageJob, ResultRecord
from dermbatch.settings import Settings
from dermbatch.store import ObjectStore
from workers.inference import TritonClient
from workers.lease import LeaseKeeper, LeaseLost
from workers.pipeline import process

_log = structlog.get_logger(__name__)

JSON = "application/json"

Process = Callable[..., ResultRecord]


@dataclass
class Workplace:
    """What one worker process needs: its connections, made after the fork, and its name."""

    settings: Settings
    store: ObjectStore
    ledger: Ledger
    client: TritonClient
    keeper: LeaseKeeper
    slot: str
    process: Process = process
    _claims: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    def open(cls, settings: Settings) -> Workplace:
        """Connect, and begin to report this process as a worker slot."""
        slot = f"{socket.gethostname()}/{os.getpid()}"
        ledger = Ledger(settings.redis, settings.ledger)
        keeper = LeaseKeeper(ledger, slot, settings.ledger.heartbeat)
        keeper.start()
        return cls(settings, ObjectStore(settings.store), ledger, TritonClient(settings.triton), keeper, slot)

    def close(self) -> None:
        """Stop reporting, and give back what is shared with Triton."""
        self.keeper.stop()
        self.client.close()

    def new_owner(self) -> str:
        """A name for one claim: the same process claims the same image anew under another name."""
        return f"{self.slot}/{next(self._claims)}"


def process_image(workplace: Workplace, message: dict[str, Any]) -> None:
    """Process one image from message to record.

    Args:
        workplace: This process's connections.
        message: An :class:`ImageJob` as JSON.

    Raises:
        LedgerUnavailable: Where Redis is gone; the image is sent again when it is back.
    """
    job = ImageJob.model_validate(message)
    log = _log.bind(batch=job.batch, index=job.index)
    claim = workplace.ledger.claim(job, workplace.new_owner())
    if not isinstance(claim, Claim):
        log.info("not claimed", why=claim)
        return
    started = time.monotonic()
    try:
        with workplace.keeper.hold(claim) as alive:
            if claim.attempt == 1 or not _is_recorded(workplace.store, job):
                record = workplace.process(
                    job,
                    store=workplace.store,
                    client=workplace.client,
                    limits=workplace.settings.worker,
                    attempt=claim.attempt,
                    worker=workplace.slot,
                    alive=alive,
                )
                first = workplace.store.put_if_absent(layout.result(job.batch, job.index), record.to_json(), JSON)
                log.info("recorded", first=first, attempt=claim.attempt, seconds=record.seconds)
    except LeaseLost:
        log.warning("lease lost", attempt=claim.attempt)
        return
    except PermanentError as error:
        _fail(workplace, claim, error.reason, str(error), permanent=True)
        return
    except Exception as error:
        _postpone_or_fail(workplace, claim, error)
        return
    workplace.ledger.finish(job, claim.owner, "done")
    metrics.IMAGES.labels("done").inc()
    metrics.IMAGE_SECONDS.observe(time.monotonic() - started)


def _is_recorded(store: ObjectStore, job: ImageJob) -> bool:
    """Whether an earlier attempt wrote the record, but could not say so to the ledger."""
    try:
        store.get(store.bucket, layout.result(job.batch, job.index))
    except ObjectNotFound:
        return False
    return True


def _postpone_or_fail(workplace: Workplace, claim: Claim, error: Exception) -> None:
    """A transient failure, or a defect of ours, which is worth another try too."""
    if isinstance(error, DermbatchError):
        reason, message = error.reason, str(error)
        _log.warning("attempt failed", batch=claim.job.batch, index=claim.job.index, reason=reason)
    else:
        reason, message = "internal_error", f"the pipeline broke: {type(error).__name__}; see the worker's log"
        _log.exception("attempt broke", batch=claim.job.batch, index=claim.job.index)
    limits = workplace.settings.ledger
    if claim.transients + 1 >= limits.max_transient:
        _fail(workplace, claim, reason, message, permanent=False)
        return
    # Equal pauses would come back as one herd.
    pause = min(limits.longest_pause, limits.first_pause * 2**claim.transients) * random.uniform(0.5, 1)  # noqa: S311
    if workplace.ledger.postpone(claim, pause) > 0:
        metrics.IMAGES.labels("retried").inc()


def _fail(workplace: Workplace, claim: Claim, reason: str, message: str, *, permanent: bool) -> None:
    """Write the failure record, then tell the ledger; where either fails, the lease ends and it starts over."""
    job = claim.job
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
    if workplace.ledger.finish(job, claim.owner, "failed"):
        metrics.IMAGES.labels("failed").inc()
        metrics.FAILURES.labels(reason).inc()
        _log.info("failed", batch=job.batch, index=job.index, reason=reason, attempts=claim.attempt)
