"""The worker's only task: claim an image, attempt it, and run a canary's models on it as well.

Whatever happens to this process, the ledger still knows the image: when the lease runs out, it is queued again.
"""

from __future__ import annotations

import random
import time

import structlog

from dermbatch import layout, metrics
from dermbatch.errors import (
    DermbatchError,
    InferenceAway,
    MessageDamaged,
    MessageRefused,
    NewerFormat,
    PermanentError,
    StoreRefused,
    StoreUnavailable,
)
from dermbatch.failures import write_failure
from dermbatch.ledger import Claim
from dermbatch.ledger.batches import Kind
from dermbatch.records.asked import ImageJob
from dermbatch.records.outcome import EnhanceOutput, ResultRecord
from dermbatch.records.row import row_of, sealed, sent
from dermbatch.records.signature import opened
from dermbatch.stages import Stage
from dermbatch.stored import read_if_any, write_once
from workers.process import usage
from workers.process.lease import LeaseLost
from workers.process.workplace import Workplace

_log = structlog.get_logger(__name__)

_UNTIL_ORIGINAL = 1.0  # seconds between two looks whether the image that this one duplicates has its outcome
_MOST_DOUBLINGS = 16


def process_image(workplace: Workplace, message: object) -> None:
    """Process one image from message to record.

    Args:
        workplace: This process's connections.
        message: An :class:`ImageJob` as signed JSON.

    Raises:
        LedgerUnavailable: If Redis is away; the image is queued again once it is back.
    """
    try:
        job = opened(message, workplace.settings.redis.signing_key)
    except (NewerFormat, MessageDamaged, MessageRefused) as error:
        # Not claimed, so it is queued again: one of a newer format waits for a newer worker, and the orchestrator
        # deals with one that is damaged or refused.
        _log.warning("message passed over", reason=error.reason, message=str(error))
        return
    if workplace.drain.over:
        workplace.ledger.images.give_back(job.batch, job.index)
        return
    with workplace.keeper.working():
        claim = workplace.ledger.images.claim(job, workplace.new_owner())
        if not isinstance(claim, Claim):
            _log.info("not claimed", batch=job.batch, index=job.index, why=claim)
            return
        if claim.attempt == 1:
            metrics.WAITING_SECONDS.labels(claim.lane).observe(claim.waited)
            _hold_to_objective(claim)
        workplace.store.audit.purpose = job.member
        with workplace.keeper.hold(claim):
            record = Attempt(workplace, claim).run()
        if record is not None and job.shadow is not None:
            workplace.shadow(
                job,
                record,
                store=workplace.store,
                client=workplace.client,
                limits=workplace.settings.worker,
                alive=workplace.keeper.check,
                decode=workplace.decode,
            )


def _hold_to_objective(claim: Claim) -> None:
    """Count whether an image waited no longer than its tenant was promised."""
    order = claim.job.order
    if order.wait_objective is not None and claim.lane == "live":
        kept = "in_time" if claim.waited <= order.wait_objective else "late"
        metrics.OBJECTIVE_IMAGES.labels(order.tenant, kept).inc()


class Attempt:
    """One attempt at a claimed image.

    Args:
        place: This process's connections.
        claim: The image and its owner; the caller keeps the lease.
    """

    def __init__(self, place: Workplace, claim: Claim) -> None:
        self._place, self._claim, self._job = place, claim, claim.job
        self._log = _log.bind(batch=claim.job.batch, index=claim.job.index)
        self._started = time.monotonic()

    def run(self) -> ResultRecord | None:
        """Process the image and record its outcome. Raises nothing: every error is dealt with here.

        Returns:
            Its result, if it has one now.
        """
        place, claim = self._place, self._claim
        row, kind = "", None
        try:
            if self._must_wait():
                return None
            record = self._recorded() if claim.attempt > 1 else None
            if record is None:
                record = place.process(
                    self._job,
                    store=place.store,
                    client=place.client,
                    limits=place.settings.worker,
                    attempt=claim.attempt,
                    worker=place.slot,
                    alive=place.keeper.check,
                    destinations=place.destinations,
                    decode=place.decode,
                    last=place.last,
                    waited=round(claim.waited, 3),
                )
                first = self._commit(record)
                if first is None:
                    return None
                row, kind = (self._row(record), _kind(self._job, record)) if first else ("", None)
        except LeaseLost as lost:
            self._log.warning("image left", attempt=claim.attempt, why=str(lost))
            if self._put_off(0, counted=False):  # else it is no longer this worker's
                place.drain.count_given_back()
            return None
        except PermanentError as error:
            self._fail(error.reason, str(error), permanent=True)
            return None
        except Exception as error:
            self._postpone_or_fail(error)
            return None
        if self._done(row, kind):
            metrics.IMAGES.labels("done").inc()
            metrics.IMAGE_SECONDS.observe(self._seconds)
            place.drain.count_finished()
        return record

    @property
    def _seconds(self) -> float:
        """Seconds since the attempt began."""
        return time.monotonic() - self._started

    def _done(self, row: str, kind: Kind | None) -> bool:
        """Report the result to the ledger; ``False`` if it did not answer."""
        images, job, owner = self._place.ledger.images, self._job, self._claim.owner
        seconds = self._seconds
        told = self._place.insist(lambda: images.finish(job, owner, "done", row=row, kind=kind, seconds=seconds))
        return told is not None

    def _must_wait(self) -> bool:
        """Postpone a duplicate until the first image of its content has its outcome; returns whether it was."""
        ledger, job, original = self._place.ledger, self._job, self._job.duplicate_of
        if original is None or self._place.insist(lambda: ledger.batches.is_finished(job.batch, original)):
            return False
        self._put_off(_UNTIL_ORIGINAL, counted=False)
        return True

    def _recorded(self) -> ResultRecord | None:
        """The result of an earlier attempt that wrote it but could not report it to the ledger."""
        return read_if_any(self._place.store, layout.result(self._job.batch, self._job.index), ResultRecord)

    def _row(self, record: ResultRecord) -> str:
        """The image's row, kept in the ledger so that closing need not read the record; also counts its usage."""
        row = row_of(record, duplicate_of=self._job.duplicate_of)
        usage.count(row, self._job.order.tenant)
        return sealed(sent(row), self._job.batch, self._place.settings.redis.signing_key)

    def _commit(self, record: ResultRecord) -> bool | None:
        """Write the result: ``True`` if it is the first; ``None`` if it cannot be written, which costs no try."""
        key = layout.result(self._job.batch, self._job.index)
        try:
            first = write_once(self._place.store, key, record)
        except (StoreUnavailable, StoreRefused) as error:
            self._wait(error)
            return None
        self._log.info("recorded", first=first, attempt=self._claim.attempt, seconds=record.seconds)
        return first

    def _postpone_or_fail(self, error: Exception) -> None:
        """Handle a transient failure, or a defect of our own, which is worth another try as well."""
        if isinstance(error, (StoreRefused, InferenceAway)):
            # Expired credentials or an absent Triton are not the image's fault.
            self._wait(error)
            return
        if isinstance(error, DermbatchError):
            reason, message = error.reason, str(error)
            self._log.warning("attempt failed", reason=reason)
        else:
            reason, message = "internal_error", f"the pipeline broke: {type(error).__name__}; see the worker's log"
            self._log.exception("attempt broke")
        if self._claim.transients + 1 >= self._place.settings.ledger.max_transient:
            self._fail(reason, message, permanent=False)
        else:
            self._postpone(self._claim.transients, counted=True, at_least=getattr(error, "wait", None) or 0.0)

    def _wait(self, error: DermbatchError) -> None:
        """Postpone the image while the store or Triton serves nobody, which costs no try."""
        self._log.warning("waits", reason=error.reason, message=str(error))
        self._postpone(self._claim.attempt - 1, counted=False)

    def _postpone(self, before: int, *, counted: bool, at_least: float = 0.0) -> None:
        """Postpone the image for a pause that doubles each time, up to the longest; longer if a PACS asks so."""
        limits = self._place.settings.ledger
        longest = min(limits.longest_pause, limits.first_pause * 2 ** min(before, _MOST_DOUBLINGS))
        pause = longest * random.uniform(0.5, 1)  # noqa: S311 - equal pauses would come back as one herd
        pause = max(pause, min(at_least, limits.longest_pause))
        if self._put_off(pause, counted=counted):
            metrics.IMAGES.labels("retried").inc()
            self._place.drain.count_finished()

    def _put_off(self, pause: float, *, counted: bool) -> bool:
        """Give the image back to the ledger; ``False`` if the lease was lost or Redis did not answer."""
        ledger, claim = self._place.ledger, self._claim
        transients = self._place.insist(lambda: ledger.images.postpone(claim, pause, counted=counted))
        return transients is not None and transients >= 0

    def _fail(self, reason: str, message: str, *, permanent: bool) -> None:
        """Write the failure record, then report it to the ledger; if it cannot be written, postpone the image."""
        place, job, claim = self._place, self._job, self._claim
        try:
            write_failure(
                place.store,
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
            self._wait(error)
            return
        seconds = self._seconds
        if place.insist(
            lambda: place.ledger.images.finish(
                job, claim.owner, "failed", reason=reason, kind="failed", seconds=seconds
            )
        ):
            metrics.IMAGES.labels("failed").inc()
            metrics.FAILURES.labels(reason).inc()
            place.drain.count_finished()
            self._log.info("failed", reason=reason, attempts=claim.attempt)


def _kind(job: ImageJob, record: ResultRecord) -> Kind:
    """What kind of work the image was; the time left of a batch is estimated from these."""
    if job.duplicate_of is not None:
        return "copy"
    if len(record.cached) == len(record.stages):
        return "known"
    enhanced = None if Stage.ENHANCE in record.cached else record.stages.get(Stage.ENHANCE)
    if enhanced and isinstance(enhanced.output, EnhanceOutput) and enhanced.output.method == "super_resolution":
        return "enlarged"
    return "plain"
