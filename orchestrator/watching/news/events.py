"""Notifications: what object stores send when an object has been written, in all the forms that they use.

Events are hints. They come late, twice, out of order, or not at all, and anybody who reaches the port may send
one; so all they mean is that an object is worth a look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus, urlsplit

from dermbatch.errors import BadInput

_MOST_KEY_BYTES = 1024
"""What S3 allows."""

_SNS_HOST = re.compile(r"sns\.[a-z0-9-]+\.amazonaws\.com(\.cn)?")

_ANNOTATIONS = frozenset({"PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold", "PutACL"})
"""Events that MinIO counts as creations, though the object's bytes stay the same."""


@dataclass(frozen=True)
class ObjectEvent:
    """An object that was written, according to a store.

    Attributes:
        bucket: Its bucket.
        key: Its key, decoded.
    """

    bucket: str
    key: str


@dataclass(frozen=True)
class Notification:
    """The content of one message of a store.

    Attributes:
        events: Objects that were written; none for tests, removals, restores, tags.
        subscribe_url: The URL that confirms a subscription of Amazon SNS.
    """

    events: tuple[ObjectEvent, ...] = ()
    subscribe_url: str | None = None


def parse_notification(body: bytes) -> Notification:
    """Read the body of a request.

    It understands S3 event messages as AWS, MinIO and Ceph send them, S3's test event, events of Amazon
    EventBridge,
    and any of them in an envelope of Amazon SNS.

    Raises:
        BadInput: If it is none of them (reason ``not_an_event``). The message quotes nothing of it.
    """
    message = _json(body)
    if isinstance(message, dict) and isinstance(message.get("Type"), str) and "TopicArn" in message:
        return _of_sns(message)
    return _of_store(message)


def _of_sns(envelope: dict[str, Any]) -> Notification:
    match envelope["Type"], envelope:
        case "Notification", {"Message": str(inner)}:
            return _of_store(_json(inner))
        case "SubscriptionConfirmation", {"SubscribeURL": str(url)}:
            if not _is_sns(url):
                raise _refusal("the confirmation address is not one of Amazon SNS")
            return Notification(subscribe_url=url)
        case "UnsubscribeConfirmation", _:
            return Notification()
    raise _refusal("it is an envelope of SNS, but of no known type")


def _of_store(message: Any) -> Notification:
    match message:
        case {"Records": list(records)}:
            return Notification(tuple(event for record in records for event in _of_record(record)))
        case {"source": "aws.s3", "detail-type": str(kind), "detail": dict(detail)}:
            if kind != "Object Created":
                return Notification()
            # EventBridge does not encode keys; only S3's own messages do.
            return Notification((_event(detail, decoded=False),))
        case {"Event": "s3:TestEvent"}:
            return Notification()
    raise _refusal("it is neither an S3 event message nor one of EventBridge")


def _of_record(record: Any) -> Iterator[ObjectEvent]:
    match record:
        case {"eventName": str(name), "s3": dict(s3)}:
            if not _creates(name.removeprefix("s3:")):
                return
        case _:
            raise _refusal("a record has no eventName or no s3")
    source = record.get("eventSource")
    if source in ("aws:s3", "minio:s3") and "eventId" not in record:
        yield _event(s3, decoded=True)
    elif source in ("ceph:s3", "aws:s3"):
        # Ceph does not encode keys. Its older releases call themselves AWS, but number their events.
        yield _event(s3, decoded=False)
    else:
        # An unknown store: one of the two keys exists, and looking for the other does no harm.
        yield from dict.fromkeys((_event(s3, decoded=True), _event(s3, decoded=False)))


def _creates(name: str) -> bool:
    kind, _, how = name.partition(":")
    return (kind == "ObjectCreated" and how not in _ANNOTATIONS) or name == "ObjectSynced:Create"


def _event(s3: dict[str, Any], *, decoded: bool) -> ObjectEvent:
    match s3:
        case {"bucket": {"name": str(bucket)}, "object": {"key": str(key)}} if bucket and key:
            pass
        case _:
            raise _refusal("it names no bucket or no object")
    try:
        key = unquote_plus(key, errors="strict") if decoded else key
        length = len(key.encode())
        bucket.encode()
    except UnicodeError as error:
        raise _refusal("a name in it is not UTF-8") from error
    if length > _MOST_KEY_BYTES:
        raise _refusal("a key in it is longer than S3's may be")
    return ObjectEvent(bucket, key)


def _is_sns(url: str) -> bool:
    """Whether an address belongs to SNS, so that nobody can make us visit another one."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.port in {None, 443} and parts.username is None
    except ValueError:
        return False
    return plain and _SNS_HOST.fullmatch(parts.hostname or "") is not None


def _json(text: bytes | str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal("it is not JSON") from error


def _refusal(why: str) -> BadInput:
    return BadInput(f"this is not an event of an object store: {why}", reason="not_an_event")
