"""A ledger whose leases are short, and what tests put into it."""

from datetime import UTC, datetime

from dermbatch.ledger import Claim, Message
from dermbatch.ledger.queue import QUEUES
from dermbatch.records.asked import Batch, ImageJob, ModelChoice, Order
from dermbatch.settings import LedgerSettings
from dermbatch.stages import Stage
from tests.waiting import wait_for

SETTINGS = LedgerSettings(lease=0.3, heartbeat=0.1, queued_look=0.3, max_crashes=3)


def job(index=0, batch="b"):
    return ImageJob(
        batch=batch,
        index=index,
        name="x.jpg",
        source="s3://incoming/b/0",
        order=Order(models={Stage.SEGMENT: ModelChoice(name="m")}),
    )


def message(index=0, batch="b", lane="bulk"):
    return Message(job(index, batch), QUEUES[lane], f"message {batch}:{index}")


def put(ledger, *indices, batch="b", lane="bulk"):
    return ledger.images.enqueue([message(index, batch, lane) for index in indices or (0,)])


def taken(redis_client, lane="bulk"):
    """What a worker does first: it takes the message."""
    return redis_client.rpop(QUEUES[lane])


def batch(images, name="b", lane="bulk"):
    return Batch(
        name=name, created=datetime.now(UTC), order=Order(lane=lane, models={}), images=images, software="0"
    )


def claimed(ledger, item, owner="w/0"):
    claim = ledger.images.claim(item, owner)
    assert isinstance(claim, Claim)
    return claim


def wait_due(ledger):
    return wait_for(lambda: ledger.images.requeue("orchestrator"), 5, "something due")
