"""Celery messages as they lie in Redis, so that one script can put an image into the ledger and the queue.

Celery itself makes the task's part (headers and body); the envelope is that of kombu's Redis transport. A test
compares both with what ``send_task`` really writes.
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
        key: The key that they are signed with; none if they are not.
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
            argsrepr="",  # for logs, which must not name files
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
        NewerFormat, MessageDamaged, MessageRefused: If it is not a job to be done here.
    """
    try:
        (message, *_), _, _ = json.loads(json.loads(payload)["body"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise MessageDamaged("a message in the queue is not a Celery message") from error
    return opened(message, key)
