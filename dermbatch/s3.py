"""S3 as boto speaks it: the client, and what it answers in Dermbatch's terms: errors, times, ETags, digests."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError

from dermbatch import __version__, metrics
from dermbatch.errors import (
    ObjectBrokeOff,
    ObjectNotFound,
    PermanentError,
    StoreRefused,
    StoreUnavailable,
    UsageError,
)
from dermbatch.settings import StoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client

_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
ALREADY_THERE = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "409"}
_DENIED = {"AccessDenied", "403", "Forbidden"}
_NOT_LET_IN = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidToken",
    "NoCredentialsError",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}

# urllib3's own come through where the body of an error answer breaks off: botocore reads it outside of its net.
BROKEN = (BotoCoreError, HTTPError, OSError)

_SHA256_BYTES = 32

_NO_PROFILE = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
}
"""Of botocore: name in files, in the environment, default and conversion of a variable."""

# boto3's documentation: sharing a client between threads is safe, making one is not.
_making = threading.Lock()


def connect(settings: StoreSettings) -> S3Client:
    """A client of the store; safe to share between threads, but not with a forked process.

    Raises:
        UsageError: If AWS's own variables and files, or the address, cannot be used.
    """
    try:
        return _connected(settings)
    except (BotoCoreError, ValueError) as error:
        raise UsageError(
            f"the object store's settings (DERMBATCH_STORE__..., AWS_...) cannot be used: {error}"
        ) from error


def _connected(settings: StoreSettings) -> S3Client:
    secret = settings.secret_access_key
    with _making:
        # A stack's own store has nothing to do with whatever profiles this machine has, or lacks.
        core = Session(session_vars=_NO_PROFILE if _is_local(settings.endpoint_url) and secret else None)
        core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
        session = boto3.session.Session(
            botocore_session=core,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=secret.get_secret_value() if secret else None,
            region_name=settings.region,
        )
        return session.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            config=Config(
                max_pool_connections=settings.connections,
                connect_timeout=settings.connect_timeout,
                read_timeout=settings.read_timeout,
                retries={"mode": "standard", "total_max_attempts": 3},
                tcp_keepalive=True,
                user_agent=f"dermbatch/{__version__}",  # else built for every request, at 0.2 ms
                proxies={} if _is_local(settings.endpoint_url) else None,
                s3={
                    "addressing_style": "path" if settings.endpoint_url else "auto",
                    # TLS or the loopback guard the way; digesting every body costs 0.7 ms a megabyte.
                    "payload_signing_enabled": False,
                },
                # Newer defaults add trailing checksums that some S3-compatible servers cannot read.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )


def _is_local(endpoint_url: str | None) -> bool:
    """Whether the store is on this very machine, where no proxy leads to."""
    return urlsplit(endpoint_url or "").hostname in {"127.0.0.1", "localhost", "::1"}


@contextmanager
def asking(operation: str, where: str) -> Iterator[None]:
    """One request: counted, and its error as ours."""
    metrics.STORE_REQUESTS.labels(operation).inc()
    try:
        yield
    except (ClientError, S3UploadFailedError, *BROKEN) as error:
        raise sorted_error(error, operation, where) from error


def whole_body(body: Any, bucket: str) -> bytes:
    """All bytes of an answer's body."""
    try:
        return bytes(body.read())
    except BROKEN as error:
        raise ObjectBrokeOff(str(sorted_error(error, "get", f"s3://{bucket}"))) from error


def moment(text: str) -> datetime:
    """Parse a time of an answer. botocore's own parser takes 0.05 ms for each object of a listing."""
    with suppress(ValueError):
        if text.endswith("Z"):
            return datetime.fromisoformat(text)
        if text.endswith("GMT"):
            return parsedate_to_datetime(text)
    return parse_timestamp(text)


def vouched(checksum: str | None, kind: str | None) -> str | None:
    """A ``x-amz-checksum-sha256`` as hexadecimal digits; none where it is that of an upload's parts, or none."""
    if checksum is None or (kind or "FULL_OBJECT") != "FULL_OBJECT" or "-" in checksum:
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == _SHA256_BYTES else None


def bare_etag(etag: str | None) -> str | None:
    """An ETag without its quotes."""
    return etag.strip('"') if etag else None


def code_of(error: ClientError) -> str:
    """The code that the store gave an error, such as ``NoSuchKey``; empty where it gave none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def sorted_error(error: Exception, operation: str, where: str) -> Exception:
    """The error of our tree that this one of boto's stands for."""
    if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, ClientError):
        error = error.__context__  # says why, which its wrapping does not
    code = code_of(error) if isinstance(error, ClientError) else type(error).__name__
    metrics.STORE_ERRORS.labels(operation, code).inc()
    if code in _NOT_FOUND:
        what = "bucket" if code == "NoSuchBucket" else "object"
        return ObjectNotFound(f"no such {what} in the object store ({where})", reason=f"{what}_not_found")
    refused = f"the object store refuses to {operation} in {where}: {code}"
    if code in _NOT_LET_IN:
        return StoreRefused(f"{refused}; renew the credentials (DERMBATCH_STORE__...)")
    if code in _DENIED and operation == "get":  # this object may be closed to us while others are not
        return PermanentError(refused, reason="access_denied")
    if code in _DENIED:
        return StoreRefused(f"{refused}; its policy must allow this")
    if code in _CONFLICT:
        return StoreUnavailable(f"two writers met in {where}; trying again")
    return StoreUnavailable(f"the object store did not {operation} in {where}: {code}")
