"""Celery messages as they lie in Redis, so that one script can put an image into the ledger and the queue.

The task's part (headers and body) is made by Celery itself; the envelope around it is kombu's, of its Redis
transport. A test compares both with what ``send_task`` really writes.
"""

from __future__ import annotations

import json
import uuid

from celery import Celery
from pydantic import SecretStr

from dermbatch.errors import MessageDamaged
from dermbatch.ledger import Message
from dermbatch.ledger.queue import QUEUES, TASK
from dermbatch.records.asked import ImageJob, Lane
from dermbatch.records.signature import opened, signed
from dermbatch.stored import JSON


class Messages:
    """Makes messages for the task.

    Args:
        app: A Celery application with the queue's settings; nothing is sent through it.
        key: With which they are signed; none where they are not.
    """

    def __init__(self, app: Celery, key: SecretStr | None = None) -> None:
        self._app, self._key = app, key

    def of(self, job: ImageJob, lane: Lane) -> Message:
        """The message that asks a worker for this job."""
        queue, identity = QUEUES[lane], str(uuid.uuid4())
        task = self._app.amqp.as_task_v2(
            identity,
            TASK,
            args=(signed(job, self._key),),
            ignore_result=True,
            argsrepr="",  # for logs, which are to name no file
        )
        envelope = {
            "body": json.dumps(task.body, separators=(",", ":")),
            "content-encoding": "utf-8",
            "content-type": JSON,
            "headers": task.headers,
            "properties": {
                **task.properties,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": None,  # JSON as it is; kombu's own default would wrap it in Base64
                "delivery_tag": identity,
            },
        }
        return Message(job, queue, json.dumps(envelope, separators=(",", ":")))

    def job_of(self, payload: str) -> ImageJob:
        """The job in a message of the ledger; errors as for :func:`job_of`."""
        return job_of(payload, self._key)


def job_of(payload: str, key: SecretStr | None = None) -> ImageJob:
    """The job in a message that :class:`Messages` made.

    Raises:
        NewerFormat, MessageDamaged, MessageRefused: Where it is none that is to be done here.
    """
    try:
        (message, *_), _, _ = json.loads(json.loads(payload)["body"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MessageDamaged("a message in the queue is no message of Celery's") from error
    return opened(message, key)
