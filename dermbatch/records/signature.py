"""Workers do only what the orchestrator has signed: whoever can write to Redis cannot ask for anything else.

The signature is an HMAC-SHA-256 (RFC 2104) over the whole job: batch, index, source, order with its output and
models. It is in the message beside the job's fields. If no key is set, messages are neither signed nor checked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import structlog
from pydantic import SecretStr, ValidationError

from dermbatch.errors import MessageDamaged, MessageRefused
from dermbatch.records.asked import ImageJob

_SIGNATURE = "signature"

_log = structlog.get_logger(__name__)


def signed(job: ImageJob, key: SecretStr | None) -> dict[str, Any]:
    """The message that asks for a job, as JSON types.

    Args:
        job: What is to be done.
        key: The secret that orchestrator and workers share; none where messages are not signed.
    """
    message = job.to_message()
    return message if key is None else {**message, _SIGNATURE: _signature(message, key)}


def opened(message: object, key: SecretStr | None) -> ImageJob:
    """The job that a message asks for.

    Args:
        message: What came out of the queue: anything.
        key: As for :func:`signed`.

    Raises:
        NewerFormat: If a later version wrote it; whether it is signed is for that version to say.
        MessageDamaged: If it is not a job.
        MessageRefused: If it is not signed with this key, or was changed since.
    """
    if not isinstance(message, dict):
        raise MessageDamaged("a message in the queue is not a job")
    asked = {field: value for field, value in message.items() if field != _SIGNATURE}
    try:
        job = ImageJob.model_validate(asked)
    except ValidationError as error:
        raise MessageDamaged("a message in the queue is not a job that is known here") from error
    if key is not None and not hmac.compare_digest(_signature(asked, key), str(message.get(_SIGNATURE, ""))):
        raise MessageRefused("a message in the queue is not signed with the key of this system")
    return job


def warn_unsigned(key: SecretStr | None) -> None:
    """Log, once when a process starts, that messages are not signed, if they are not."""
    if key is None:
        _log.warning(
            "messages are not signed",
            meaning="whoever can write into Redis can have workers do anything; set DERMBATCH_REDIS__SIGNING_KEY",
        )


def _signature(message: dict[str, Any], key: SecretStr) -> str:
    text = json.dumps(message, sort_keys=True, separators=(",", ":"))
    return hmac.new(key.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()
