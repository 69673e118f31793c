"""Copies of an image's results under the user's own prefix, named as the user names the image.

The store itself copies, one request a file; pictures kept as differences are written in full.
Repeating this writes the same keys; ``result.json`` comes last.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, StoreRefused
from dermbatch.pictures import encoded
from dermbatch.records.asked import ImageJob
from dermbatch.records.outcome import DicomKind, ResultRecord, StageRecord
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore, split_uri
from dermbatch.stored import JSON
from workers.image.pictures import ENHANCED, MASK, PURIFIED, Pictures, StaleArtifact

RESULT = "result.json"

_PICTURES = {Stage.PURIFY: PURIFIED, Stage.SEGMENT: MASK, Stage.ENHANCE: ENHANCED}
_KINDS: tuple[DicomKind, ...] = ("segmentation", "report", "enhanced")

_UNSAFE = re.compile(r"[^\w.,=+@#() -]")
_LONGEST_PART = 120  # characters, and twice as many bytes: file systems behind a store allow 255
_LONGEST_KEY = 1024  # bytes, by S3
_ROOM = 64  # bytes of it for a file's name


def folder_of(output: str, name: str) -> str:
    """``s3://bucket/key`` of the folder of an image, without a slash at its end.

    Args:
        output: ``s3://bucket/prefix`` that the user has named.
        name: What the user calls the image. What is not safe in a key becomes ``_``, what is too long for one is
            cut off, and then a digest is added, so that two names never share a folder.
    """
    parts = [part for part in name.removeprefix("s3://").split("/") if part not in {"", ".", ".."}]
    short = [_cut(_UNSAFE.sub("_", part)[:_LONGEST_PART].encode()[: 2 * _LONGEST_PART]) for part in parts]
    prefix = output.rstrip("/")
    digest = f"~{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    room = _LONGEST_KEY - _ROOM - len(split_uri(f"{prefix}/")[1].encode()) - len(digest)
    whole = "/".join(short)[-4 * _LONGEST_PART :].encode()
    safe = _cut(whole[max(len(whole) - room, 0) :]).lstrip("/")
    return f"{prefix}/{safe if safe == name.removeprefix('s3://') else safe + digest}"


def _cut(characters: bytes) -> str:
    """UTF-8 text without the halves of characters at its ends."""
    return characters.decode(errors="ignore")


def copy_files(
    job: ImageJob,
    stages: Mapping[Stage, StageRecord],
    pictures: Pictures,
    dicom: Mapping[DicomKind, str],
    store: ObjectStore,
) -> str:
    """Copy pictures and DICOM objects; delete what an earlier run left there and this one does not make.

    Args:
        job: Whose order has an ``output``.
        stages: What the stages made.
        pictures: The same, for those that the store has as differences from the source.
        dicom: Keys of its DICOM objects.
        store: Holds both.

    Returns:
        ``s3://bucket/key`` of the folder.

    Raises:
        StaleArtifact: If a picture is gone.
        PermanentError: ``output_refused``, if the output must not be written.
        StoreUnavailable: If trying again may help.
    """
    assert job.order.output is not None  # noqa: S101 - the caller has looked
    folder = folder_of(job.order.output, job.name)
    bucket, key = split_uri(folder)
    files: dict[str, str | None] = {
        name: stages[stage].artifacts.get(name) for stage, name in _PICTURES.items() if stage in stages
    }
    if job.order.dicom:
        files |= {layout.dicom_file(kind): dicom.get(kind) for kind in _KINDS}
    try:
        for name, source in files.items():
            if source is None:
                store.delete(f"{key}/{name}", bucket=bucket)
            elif _is_difference(stages, name) and pictures.purified is not None:
                store.put(f"{key}/{name}", encoded(pictures.purified), "image/png", bucket=bucket)
            else:
                store.copy(source, f"{key}/{name}", bucket=bucket)
    except ObjectNotFound as error:
        if error.reason != "object_not_found":
            raise
        raise StaleArtifact(key) from error
    except StoreRefused as error:
        raise _refused(bucket) from error
    return folder


def _is_difference(stages: Mapping[Stage, StageRecord], name: str) -> bool:
    return name == PURIFIED and name in stages[Stage.PURIFY].differences


def write_result(folder: str, record: ResultRecord, store: ObjectStore) -> None:
    """Write the record beside the copies.

    Raises:
        PermanentError, StoreUnavailable: As for :func:`copy_files`.
    """
    bucket, key = split_uri(folder)
    try:
        store.put(f"{key}/{RESULT}", record.to_json(), JSON, bucket=bucket)
    except StoreRefused as error:
        raise _refused(bucket) from error


def _refused(bucket: str) -> PermanentError:
    # If it were the system's own bucket, images would wait; but it is the user's, perhaps named by mistake.
    return PermanentError(
        f"the output bucket {bucket} may not be written to with these credentials; allow it, or name another "
        f"output",
        reason="output_refused",
    )
