"""The one task: claim an image, attempt it, and run a canary's models beside it.

Whatever happens to this process, the ledger still holds the image: it is put back when the lease runs out.
"""

from __future__ import annotations

from typing import Any

import structlog

from dermbatch import metrics
from dermbatch.ledger import Claim
from dermbatch.records import ImageJob
from workers.process.attempt import Attempt
from workers.process.workplace import Workplace

_log = structlog.get_logger(__name__)


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
        workplace.ledger.images.give_back(job.batch, job.index)
        return
    with workplace.keeper.working():
        claim = workplace.ledger.images.claim(job, workplace.new_owner())
        if not isinstance(claim, Claim):
            _log.info("not claimed", batch=job.batch, index=job.index, why=claim)
            return
        if claim.attempt == 1:
            metrics.WAITING_SECONDS.labels(claim.lane).observe(claim.waited)
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
            )
