"""The object store: the few S3 operations that Dermbatch needs, with errors sorted into its own.

Objects that must be written only once are written with ``If-None-Match: *`` (RFC 9110, 13.1.2), which S3, MinIO
and Ceph honour: of several writers one wins, and the others are told.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import S3UploadFailedError
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session
from botocore.utils import parse_timestamp
from urllib3.exceptions import HTTPError

from dermbatch import __version__, metrics
from dermbatch.audit import NO_AUDIT, Action, Audit
from dermbatch.errors import ObjectBrokeOff, ObjectNotFound, PermanentError, StoreRefused, StoreUnavailable
from dermbatch.settings import StoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ResponseMetadataTypeDef

_NOT_FOUND = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_ALREADY_THERE = {"PreconditionFailed", "412"}
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
_BROKEN = (BotoCoreError, HTTPError, OSError)

_DELETED_AT_ONCE = 1000
_CHUNK = 1 << 20
_SHA256_BYTES = 32

# boto3's documentation: sharing a client between threads is safe, making one is not.
_making = threading.Lock()


class Opened:
    """An object whose bytes have not been read yet.

    Attributes:
        sha256: Digest of the bytes if the store keeps and vouches for one of the whole object, else ``None``.
    """

    def __init__(self, sha256: str | None, read: Callable[[], bytes], close: Callable[[], None]) -> None:
        self.sha256, self.read, self.close = sha256, read, close


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing describes it."""

    key: str
    size: int
    etag: str | None = None
    modified: datetime | None = None


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key``; the key may be empty.

    Raises:
        ValueError: If it is not such a URI.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise ValueError(f"not an s3://bucket/key URI: {uri!r}")
    return bucket, key


class ObjectStore:
    """Reads any bucket; writes into the result bucket (``settings.bucket``) unless another one is named.

    Safe to share between threads. A forked process needs its own.

    Every method raises :class:`StoreUnavailable` if the store does not answer or answers 5xx (after the few
    retries of boto's standard mode); :class:`StoreRefused` if credentials are missing, expired or not allowed to
    write or list; and :class:`PermanentError` with reason ``access_denied`` if an object may not be read.
    """

    def __init__(self, settings: StoreSettings, audit: Audit = NO_AUDIT) -> None:
        self.audit = audit
        self.bucket = settings.bucket
        self.incoming_bucket = settings.incoming_bucket
        self._ahead = timedelta(0)  # of the store's clock
        secret = settings.secret_access_key
        with _making:
            core = Session()
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
            session = boto3.session.Session(
                botocore_session=core,
                aws_access_key_id=settings.access_key_id,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                region_name=settings.region,
            )
            self._client: S3Client = session.client(
                "s3",
                endpoint_url=settings.endpoint_url,
                config=Config(
                    max_pool_connections=settings.connections,
                    connect_timeout=settings.connect_timeout,
                    read_timeout=settings.read_timeout,
                    retries={"mode": "standard", "total_max_attempts": 3},
                    tcp_keepalive=True,
                    user_agent=f"dermbatch/{__version__}",  # else built anew for every request, at 0.2 ms
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

    def under(self, pseudonym: Callable[[str], str] | None) -> Self:
        """The same store, with objects named by pseudonyms in the audit log; see :meth:`Audit.under`."""
        other = copy(self)
        other.audit = self.audit.under(pseudonym)
        return other

    def of(self, user: str, purpose: str | None = None) -> Self:
        """The same store, used on behalf of a user; see :meth:`Audit.of`."""
        other = copy(self)
        other.audit = self.audit.of(user, purpose)
        return other

    def _access(
        self, action: Action, bucket: str, key: str, *, size: int | None = None, to: str | None = None
    ) -> AbstractContextManager[None]:
        return self.audit.access(action, bucket, key, ours=bucket == self.bucket, size=size, to=to)

    def get(self, bucket: str, key: str, *, max_bytes: int | None = None) -> bytes:
        """The whole object.

        Raises:
            ObjectNotFound: If there is no such object or bucket.
            PermanentError: With reason ``too_large`` if it is longer than ``max_bytes``; it is not read then.
        """
        return self.read(bucket, key, max_bytes=max_bytes)[0]

    def read(self, bucket: str, key: str, *, max_bytes: int | None = None) -> tuple[bytes, str | None]:
        """The whole object and its ETag; errors as for :meth:`get`."""
        with self._access("read", bucket, key):
            with _asking("get", f"s3://{bucket}"):
                response = self._client.get_object(Bucket=bucket, Key=key)
                if max_bytes is not None and response["ContentLength"] > max_bytes:
                    response["Body"].close()
                    raise too_large(response["ContentLength"], max_bytes)
                body = _whole(response["Body"], bucket)
            metrics.BYTES_READ.inc(len(body))
            return body, _plain(response.get("ETag"))

    def opened(self, bucket: str, key: str, *, max_bytes: int | None = None) -> Opened:
        """An object whose bytes can be read later, once; errors as for :meth:`get`, of reading when it is read.

        If the store has a SHA-256 of the whole object, it is known without reading, and checked by the client when
        the bytes are read.
        """
        with self._access("read", bucket, key), _asking("get", f"s3://{bucket}"):
            response = self._client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        body = response["Body"]
        if max_bytes is not None and response["ContentLength"] > max_bytes:
            body.close()
            raise too_large(response["ContentLength"], max_bytes)

        def read() -> bytes:
            data = _whole(body, bucket)
            metrics.BYTES_READ.inc(len(data))
            return data

        return Opened(_vouched(response.get("ChecksumSHA256"), response.get("ChecksumType")), read, body.close)

    def chunks(self, bucket: str, key: str) -> Iterator[bytes]:
        """The object in pieces, for callers that must not hold all of it; errors as for :meth:`get`."""
        with self._access("read", bucket, key), _asking("get", f"s3://{bucket}"):
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
        try:
            for chunk in body.iter_chunks(_CHUNK):
                metrics.BYTES_READ.inc(len(chunk))
                yield chunk
        except _BROKEN as error:
            raise ObjectBrokeOff(str(_sorted(error, "get", f"s3://{bucket}"))) from error
        finally:
            body.close()

    def head(self, bucket: str, key: str, length: int) -> bytes:
        """The first ``length`` bytes of an object that is not empty.

        Raises:
            ObjectNotFound: If there is no such object or bucket.
        """
        with self._access("read", bucket, key), _asking("get", f"s3://{bucket}"):
            response = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{length - 1}")
            return bytes(response["Body"].read())

    def span(self, bucket: str, key: str, start: int, length: int, *, etag: str | None = None) -> bytes:
        """``length`` bytes of an object from ``start`` on; fewer if it ends before.

        Not entered in the audit log: a caller that reads an object in pieces enters it once, beforehand.

        Raises:
            ObjectNotFound: If there is no such object or bucket.
            StoreUnavailable: If the object has another ``etag`` by now.
        """
        wanted: dict[str, Any] = {"IfMatch": etag} if etag else {}
        with _asking("get", f"s3://{bucket}"):
            response = self._client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}", **wanted
            )
        body = _whole(response["Body"], bucket)
        metrics.BYTES_READ.inc(len(body))
        return body

    def stat(self, bucket: str, key: str) -> ObjectInfo:
        """One object, as a listing would describe it.

        Raises:
            ObjectNotFound: If there is no such object or bucket.
        """
        try:
            metrics.STORE_REQUESTS.labels("head").inc()
            answer = self._client.head_object(Bucket=bucket, Key=key)
        except (ClientError, *_BROKEN) as error:
            raise _sorted(error, "get", f"s3://{bucket}") from error
        self._hear(answer["ResponseMetadata"])
        return ObjectInfo(key, answer["ContentLength"], _plain(answer.get("ETag")), answer["LastModified"])

    def now(self) -> datetime:
        """The time by the store's own clock, from its last answer to a listing or :meth:`stat`.

        Up to a second behind and never ahead, because answers have whole seconds.
        """
        return datetime.now(UTC) + self._ahead

    def _hear(self, answer: ResponseMetadataTypeDef) -> None:
        date = answer["HTTPHeaders"].get("date", "")
        with suppress(ValueError):
            self._ahead = parsedate_to_datetime(date) - datetime.now(UTC)

    def download(self, bucket: str, key: str, path: Path) -> None:
        """Write an object into a file, piece by piece.

        Raises:
            ObjectNotFound: If there is no such object or bucket.
        """
        with self._access("read", bucket, key), _asking("get", f"s3://{bucket}"):
            self._client.download_file(Bucket=bucket, Key=key, Filename=str(path))

    def put(self, key: str, body: bytes, content_type: str, *, bucket: str | None = None) -> str | None:
        """Write an object, replacing any that exists. Returns its ETag."""
        return self._put(bucket or self.bucket, key, body, content_type, {})[1]

    def put_if_absent(self, key: str, body: bytes, content_type: str) -> bool:
        """Write an object unless one exists: returns ``False`` then, and writes nothing."""
        return self._put(self.bucket, key, body, content_type, {"IfNoneMatch": "*"})[0]

    def put_if_match(self, key: str, body: bytes, content_type: str, etag: str | None) -> str | None:
        """Replace an object only if it is still the one that was read; of several writers one wins.

        A request that boto repeats because the first answer was lost is refused as well, although the first wrote.

        Args:
            key: In the result bucket.
            body: The new content.
            content_type: Its media type.
            etag: ETag of the object that was read; ``None`` if there was none.

        Returns:
            The new ETag; ``None`` if another object is there by now, and nothing was written.
        """
        # Without quotes, which Ceph does not strip; the others accept both.
        conditions = {"IfMatch": etag} if etag is not None else {"IfNoneMatch": "*"}
        try:
            written, new = self._put(self.bucket, key, body, content_type, conditions)
        except ObjectNotFound as error:
            if etag is None or error.reason != "object_not_found":
                raise
            return None
        if written and new is None:
            raise StoreUnavailable("the object store gives no ETags, without which nothing is replaced safely")
        return new

    def copy(self, key: str, to: str, *, bucket: str) -> None:
        """Let the store copy an object of the result bucket to another bucket, replacing any that exists.

        Raises:
            ObjectNotFound: If there is no such object (``object_not_found``) or bucket (``bucket_not_found``).
        """
        where = f"s3://{bucket}"
        with self._access("copy", self.bucket, key, to=f"{where}/{to}"), _asking("copy", where):
            self._client.copy_object(Bucket=bucket, Key=to, CopySource={"Bucket": self.bucket, "Key": key})

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        """Write an object from a file of any size; a large one in parts."""
        with self._access("write", self.bucket, key, size=path.stat().st_size):
            with _asking("put", f"s3://{self.bucket}"):
                self._client.upload_file(str(path), self.bucket, key, ExtraArgs={"ContentType": content_type})
            metrics.BYTES_WRITTEN.inc(path.stat().st_size)

    def begin_parts(self, bucket: str, key: str, content_type: str) -> str:
        """Begin a multipart upload; returns its id."""
        with self._access("write", bucket, key), _asking("put", f"s3://{bucket}"):
            answer = self._client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=content_type)
        return answer["UploadId"]

    def put_part(self, bucket: str, key: str, parts: str, number: int, body: bytes) -> str:
        """Upload a part; numbers start at 1, and each but the last has at least 5 MiB. Returns its ETag."""
        with _asking("put", f"s3://{bucket}"):
            answer = self._client.upload_part(Bucket=bucket, Key=key, UploadId=parts, PartNumber=number, Body=body)
        metrics.BYTES_WRITTEN.inc(len(body))
        return answer["ETag"]

    def finish_parts(self, bucket: str, key: str, parts: str, etags: Sequence[str]) -> None:
        """Finish a multipart upload: make the object of the parts with these ETags."""
        made: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)
        ]
        with _asking("put", f"s3://{bucket}"):
            self._client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=parts, MultipartUpload={"Parts": made}
            )

    def drop_parts(self, bucket: str, key: str, parts: str) -> None:
        """Abort a multipart upload."""
        with _asking("delete", f"s3://{bucket}"):
            self._client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=parts)

    def _put(
        self, bucket: str, key: str, body: bytes, content_type: str, conditions: dict[str, Any]
    ) -> tuple[bool, str | None]:
        with self._access("write", bucket, key, size=len(body)):
            try:
                metrics.STORE_REQUESTS.labels("put").inc()
                answer = self._client.put_object(
                    Bucket=bucket, Key=key, Body=body, ContentType=content_type, **conditions
                )
            except ClientError as error:
                if conditions and _code(error) in _ALREADY_THERE:
                    return False, None
                raise _sorted(error, "put", f"s3://{bucket}") from error
            except _BROKEN as error:
                raise _sorted(error, "put", f"s3://{bucket}") from error
            metrics.BYTES_WRITTEN.inc(len(body))
            return True, _plain(answer.get("ETag"))

    def delete(self, key: str, *, bucket: str | None = None) -> None:
        """Delete an object; no error if there is none."""
        place = bucket or self.bucket
        with self._access("delete", place, key), _asking("delete", f"s3://{place}"):
            self._client.delete_object(Bucket=place, Key=key)

    def list(self, bucket: str, prefix: str, *, start_after: str = "") -> Iterator[ObjectInfo]:
        """Objects under a prefix, in key order, a page at a time; only keys after ``start_after``."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, StartAfter=start_after
        )
        try:
            for page in pages:
                metrics.STORE_REQUESTS.labels("list").inc()
                self._hear(page["ResponseMetadata"])
                for item in page.get("Contents", []):
                    yield ObjectInfo(item["Key"], item["Size"], _plain(item.get("ETag")), item["LastModified"])
        except (ClientError, *_BROKEN) as error:
            raise _sorted(error, "list", f"s3://{bucket}") from error

    def folders(self, bucket: str, prefix: str) -> Iterator[str]:
        """Names behind a prefix and up to the next slash, as if they were folders; in order."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        try:
            for page in pages:
                metrics.STORE_REQUESTS.labels("list").inc()
                self._hear(page["ResponseMetadata"])
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"].removeprefix(prefix).rstrip("/")
        except (ClientError, *_BROKEN) as error:
            raise _sorted(error, "list", f"s3://{bucket}") from error

    def delete_prefix(self, bucket: str, prefix: str) -> None:
        """Delete every object under a prefix, 1,000 a request."""
        with self._access("delete", bucket, f"{prefix}*"):
            infos = self.list(bucket, prefix)
            while keys := [info.key for info in islice(infos, _DELETED_AT_ONCE)]:
                with _asking("delete", f"s3://{bucket}"):
                    answer = self._client.delete_objects(
                        Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
                    )
                if errors := answer.get("Errors"):
                    raise StoreUnavailable(f"{len(errors)} objects of s3://{bucket} were not deleted")

    def create_bucket(self, bucket: str) -> None:
        """Create a bucket; no error if it exists."""
        try:
            metrics.STORE_REQUESTS.labels("create_bucket").inc()
            self._client.create_bucket(Bucket=bucket)
        except ClientError as error:
            if _code(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise _sorted(error, "create_bucket", f"s3://{bucket}") from error
        except _BROKEN as error:
            raise _sorted(error, "create_bucket", f"s3://{bucket}") from error


def moment(text: str) -> datetime:
    """Parse a time of an answer. botocore's own parser takes 0.05 ms for each object of a listing."""
    with suppress(ValueError):
        if text.endswith("Z"):
            return datetime.fromisoformat(text)
        if text.endswith("GMT"):
            return parsedate_to_datetime(text)
    return parse_timestamp(text)


def _whole(body: Any, bucket: str) -> bytes:
    """All bytes of an answer's body."""
    try:
        return bytes(body.read())
    except _BROKEN as error:
        raise ObjectBrokeOff(str(_sorted(error, "get", f"s3://{bucket}"))) from error


def too_large(size: int, most: int) -> PermanentError:
    """The error of a file with more bytes than are taken."""
    return PermanentError(f"the file has {size:,} bytes, more than the limit of {most:,}", reason="too_large")


def _vouched(checksum: str | None, kind: str | None) -> str | None:
    """A ``x-amz-checksum-sha256`` as hexadecimal digits; none where it is that of an upload's parts, or none."""
    if checksum is None or (kind or "FULL_OBJECT") != "FULL_OBJECT" or "-" in checksum:
        return None
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == _SHA256_BYTES else None


@contextmanager
def _asking(operation: str, where: str) -> Iterator[None]:
    """One request: counted, and its error as ours."""
    metrics.STORE_REQUESTS.labels(operation).inc()
    try:
        yield
    except (ClientError, S3UploadFailedError, *_BROKEN) as error:
        raise _sorted(error, operation, where) from error


def _is_local(endpoint_url: str | None) -> bool:
    """Whether the store is on this very machine, where no proxy leads to."""
    return urlsplit(endpoint_url or "").hostname in {"127.0.0.1", "localhost", "::1"}


def _plain(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _sorted(error: Exception, operation: str, where: str) -> Exception:
    """The error of our tree that this one of boto's stands for."""
    if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, ClientError):
        error = error.__context__  # says why, which its wrapping does not
    code = _code(error) if isinstance(error, ClientError) else type(error).__name__
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
