"""The object store: the few S3 operations that Dermbatch needs, with errors sorted into its own.

Objects that must be written only once are written with ``If-None-Match: *`` (RFC 9110, 13.1.2), which S3, MinIO
and Ceph honour: of several writers one wins, and the others are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from botocore.exceptions import ClientError

from dermbatch import metrics
from dermbatch.audit import NO_AUDIT, Action, Audit
from dermbatch.errors import ObjectBrokeOff, ObjectNotFound, PermanentError, StoreUnavailable
from dermbatch.s3 import (
    ALREADY_THERE,
    BROKEN,
    asking,
    bare_etag,
    code_of,
    connect,
    sorted_error,
    vouched,
    whole_body,
)
from dermbatch.settings import StoreSettings

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, ResponseMetadataTypeDef

_DELETED_AT_ONCE = 1000
_CHUNK = 1 << 20


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
        self._ahead = timedelta(0)  # how far the store's clock is ahead of ours
        self._client = connect(settings)

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
            with asking("get", f"s3://{bucket}"):
                response = self._client.get_object(Bucket=bucket, Key=key)
                if max_bytes is not None and response["ContentLength"] > max_bytes:
                    response["Body"].close()
                    raise too_large(response["ContentLength"], max_bytes)
                body = whole_body(response["Body"], bucket)
            metrics.BYTES_READ.inc(len(body))
            return body, bare_etag(response.get("ETag"))

    def opened(self, bucket: str, key: str, *, max_bytes: int | None = None) -> Opened:
        """An object whose bytes can be read later, once; errors as for :meth:`get`, some of them only on reading.

        If the store has a SHA-256 of the whole object, that is known without reading; the client checks it as the
        bytes are read.
        """
        with self._access("read", bucket, key), asking("get", f"s3://{bucket}"):
            response = self._client.get_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        body = response["Body"]
        if max_bytes is not None and response["ContentLength"] > max_bytes:
            body.close()
            raise too_large(response["ContentLength"], max_bytes)

        def read() -> bytes:
            data = whole_body(body, bucket)
            metrics.BYTES_READ.inc(len(data))
            return data

        return Opened(vouched(response.get("ChecksumSHA256"), response.get("ChecksumType")), read, body.close)

    def chunks(self, bucket: str, key: str) -> Iterator[bytes]:
        """The object in pieces, for callers that must not hold all of it; errors as for :meth:`get`."""
        with self._access("read", bucket, key), asking("get", f"s3://{bucket}"):
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
        try:
            for chunk in body.iter_chunks(_CHUNK):
                metrics.BYTES_READ.inc(len(chunk))
                yield chunk
        except BROKEN as error:
            raise ObjectBrokeOff(str(sorted_error(error, "get", f"s3://{bucket}"))) from error
        finally:
            body.close()

    def head(self, bucket: str, key: str, length: int) -> bytes:
        """The first ``length`` bytes of an object that is not empty.

        Raises:
            ObjectNotFound: If there is no such object or bucket.
        """
        with self._access("read", bucket, key), asking("get", f"s3://{bucket}"):
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
        with asking("get", f"s3://{bucket}"):
            response = self._client.get_object(
                Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}", **wanted
            )
        body = whole_body(response["Body"], bucket)
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
        except (ClientError, *BROKEN) as error:
            raise sorted_error(error, "get", f"s3://{bucket}") from error
        self._hear(answer["ResponseMetadata"])
        return ObjectInfo(key, answer["ContentLength"], bare_etag(answer.get("ETag")), answer["LastModified"])

    def now(self) -> datetime:
        """The time by the store's own clock, from its last answer to a listing or :meth:`stat`.

        Up to a second behind and never ahead, because answers have whole seconds. Before the first answer, this
        machine's own time.
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
        with self._access("read", bucket, key), asking("get", f"s3://{bucket}"):
            self._client.download_file(Bucket=bucket, Key=key, Filename=str(path))

    def put(self, key: str, body: bytes, content_type: str, *, bucket: str | None = None) -> str | None:
        """Write an object, replacing any that exists. Returns its ETag."""
        return self._put(bucket or self.bucket, key, body, content_type, {})[1]

    def put_if_absent(self, key: str, body: bytes, content_type: str) -> bool:
        """Write an object unless one exists; if one does, write nothing and return ``False``."""
        return self._put(self.bucket, key, body, content_type, {"IfNoneMatch": "*"})[0]

    def put_if_match(self, key: str, body: bytes, content_type: str, etag: str | None) -> str | None:
        """Replace an object only if it is still the one that was read; of several writers one wins.

        If the first answer was lost, boto repeats the request, and that is refused although the first one wrote.

        Args:
            key: In the result bucket.
            body: The new content.
            content_type: Its media type.
            etag: ETag of the object that was read; ``None`` if there was none.

        Returns:
            The new ETag; ``None`` if the store refused because another object is there by now.
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
            raise StoreUnavailable(
                "the object store returns no ETags, without which nothing can be replaced safely"
            )
        return new

    def copy(self, key: str, to: str, *, bucket: str) -> None:
        """Let the store copy an object of the result bucket to another bucket, replacing any that exists.

        Raises:
            ObjectNotFound: If there is no such object (``object_not_found``) or bucket (``bucket_not_found``).
        """
        where = f"s3://{bucket}"
        with self._access("copy", self.bucket, key, to=f"{where}/{to}"), asking("copy", where):
            self._client.copy_object(Bucket=bucket, Key=to, CopySource={"Bucket": self.bucket, "Key": key})

    def put_file(self, key: str, path: Path, content_type: str) -> None:
        """Write an object from a file of any size; a large one in parts."""
        with self._access("write", self.bucket, key, size=path.stat().st_size):
            with asking("put", f"s3://{self.bucket}"):
                self._client.upload_file(str(path), self.bucket, key, ExtraArgs={"ContentType": content_type})
            metrics.BYTES_WRITTEN.inc(path.stat().st_size)

    def begin_parts(self, bucket: str, key: str, content_type: str) -> str:
        """Begin a multipart upload; returns its id."""
        with self._access("write", bucket, key), asking("put", f"s3://{bucket}"):
            answer = self._client.create_multipart_upload(Bucket=bucket, Key=key, ContentType=content_type)
        return answer["UploadId"]

    def put_part(self, bucket: str, key: str, parts: str, number: int, body: bytes) -> str:
        """Upload a part of the multipart upload ``parts`` and return its ETag.

        Numbers start at 1, and each part but the last has at least 5 MiB.
        """
        with asking("put", f"s3://{bucket}"):
            answer = self._client.upload_part(Bucket=bucket, Key=key, UploadId=parts, PartNumber=number, Body=body)
        metrics.BYTES_WRITTEN.inc(len(body))
        return answer["ETag"]

    def finish_parts(self, bucket: str, key: str, parts: str, etags: Sequence[str]) -> None:
        """Finish a multipart upload: make the object of the parts with these ETags."""
        made: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)
        ]
        with asking("put", f"s3://{bucket}"):
            self._client.complete_multipart_upload(
                Bucket=bucket, Key=key, UploadId=parts, MultipartUpload={"Parts": made}
            )

    def drop_parts(self, bucket: str, key: str, parts: str) -> None:
        """Abort a multipart upload."""
        with asking("delete", f"s3://{bucket}"):
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
                if conditions and code_of(error) in ALREADY_THERE:
                    return False, None
                raise sorted_error(error, "put", f"s3://{bucket}") from error
            except BROKEN as error:
                raise sorted_error(error, "put", f"s3://{bucket}") from error
            metrics.BYTES_WRITTEN.inc(len(body))
            return True, bare_etag(answer.get("ETag"))

    def delete(self, key: str, *, bucket: str | None = None) -> None:
        """Delete an object; no error if there is none."""
        place = bucket or self.bucket
        with self._access("delete", place, key), asking("delete", f"s3://{place}"):
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
                    yield ObjectInfo(item["Key"], item["Size"], bare_etag(item.get("ETag")), item["LastModified"])
        except (ClientError, *BROKEN) as error:
            raise sorted_error(error, "list", f"s3://{bucket}") from error

    def folders(self, bucket: str, prefix: str) -> Iterator[str]:
        """Names behind a prefix and up to the next slash, as if they were folders; in order."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
        try:
            for page in pages:
                metrics.STORE_REQUESTS.labels("list").inc()
                self._hear(page["ResponseMetadata"])
                for item in page.get("CommonPrefixes", []):
                    yield item["Prefix"].removeprefix(prefix).rstrip("/")
        except (ClientError, *BROKEN) as error:
            raise sorted_error(error, "list", f"s3://{bucket}") from error

    def delete_prefix(self, bucket: str, prefix: str) -> None:
        """Delete every object under a prefix, 1,000 a request."""
        with self._access("delete", bucket, f"{prefix}*"):
            infos = self.list(bucket, prefix)
            while keys := [info.key for info in islice(infos, _DELETED_AT_ONCE)]:
                with asking("delete", f"s3://{bucket}"):
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
            if code_of(error) not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
                raise sorted_error(error, "create_bucket", f"s3://{bucket}") from error
        except BROKEN as error:
            raise sorted_error(error, "create_bucket", f"s3://{bucket}") from error


def too_large(size: int, most: int) -> PermanentError:
    """The error for a file with more bytes than the limit."""
    return PermanentError(f"the file has {size:,} bytes, more than the limit of {most:,}", reason="too_large")
