"""Images for tests that look at the queue and the ledger alone: put in flight as the dispatcher does."""

import redis
from celery import Celery

from dermbatch.ledger import Message
from dermbatch.ledger.queue import QUEUES, TASK, celery_config
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.records.signature import signed
from dermbatch.stages import Stage


def job_of(index, name="x.jpg", batch="b", **more):
    return ImageJob(
        batch=batch,
        index=index,
        name=name,
        source=f"s3://incoming/{batch}/{index}",
        order=Order(stages=(Stage.SEGMENT,), models={Stage.SEGMENT: ModelChoice(name="m")}),
        **more,
    )


def messages_of(jobs, redis_settings, lane="bulk"):
    """The jobs as Celery itself writes them into a queue, signed where there is a key."""
    scratch = "dermbatch.tests.scratch"
    with Celery("tests") as app, redis.Redis.from_url(redis_settings.url, decode_responses=True) as client:
        app.conf.update(celery_config(redis_settings))
        for job in jobs:
            app.send_task(TASK, args=[signed(job, redis_settings.signing_key)], queue=scratch, ignore_result=True)
        payloads = client.lrange(scratch, 0, -1)
        client.delete(scratch)
    return [Message(job, QUEUES[lane], payload) for job, payload in zip(jobs, reversed(payloads), strict=True)]
