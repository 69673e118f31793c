"""Whose image it is, as far as its source says so and it may be disclosed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from io import BytesIO

from pydicom import Dataset, dcmread

from dermbatch.errors import ArtifactDamaged
from dermbatch.images.quiet import quiet
from dermbatch.records.asked import Batch
from dermbatch.records.outcome import DicomKind, ResultRecord
from dermbatch.records.uids import uid_of
from dermbatch.store import ObjectStore
from dermbatch.stored import written_as

_SMALLEST_FIRST: tuple[DicomKind, ...] = ("report", "segmentation", "enhanced")
_UNKNOWN = date(1900, 1, 1)  # the Content Date of objects whose source states none


@dataclass(frozen=True)
class SourceIdentity:
    """Identifiers of the source; each is none if it states none.

    Attributes:
        patient: Patient ID (0010,0020).
        issuer: Issuer of Patient ID (0010,0021).
        study: Study Instance UID (0020,000D).
        accession: Accession Number (0008,0050).
        taken: The day on which the image was taken.
    """

    patient: str | None = None
    issuer: str | None = None
    study: str | None = None
    accession: str | None = None
    taken: date | None = None


NOBODY = SourceIdentity()
"""The identity of an image that is not DICOM, or was de-identified."""


def read_identity(store: ObjectStore, batch: Batch, record: ResultRecord) -> SourceIdentity:
    """The identifiers of the source, taken from the image's DICOM objects; nobody's if there are none.

    Args:
        store: Has the objects.
        batch: For a de-identified batch nothing is read.
        record: Names the objects, where they were asked for.

    Raises:
        ObjectNotFound: If the record names an object that is gone.
        ArtifactDamaged: If it is not what was written.
        StoreUnavailable, StoreRefused: Where the store fails.
    """
    kind = next((kind for kind in _SMALLEST_FIRST if kind in record.dicom), None)
    if kind is None or batch.order.deidentified is not None:
        return NOBODY
    key = record.dicom[kind]
    body = store.get(store.bucket, key)
    if kind in record.dicom_written and written_as(body) != record.dicom_written[kind]:
        raise ArtifactDamaged(f"{key} is not what was written; submit the image again to create it again")
    with quiet():
        return identity_of(dcmread(BytesIO(body), stop_before_pixels=True), record)


def identity_of(header: Dataset, record: ResultRecord) -> SourceIdentity:
    """The identifiers in a header of one of the objects of an image.

    A Study Instance UID that was made for the objects, since the source has none or one that cannot be written, is
    not told: no other system knows it.
    """
    study = _text(header, "StudyInstanceUID")
    made = uid_of("missing", "study", record.source.sha256)
    if study == made or "replaced_study_instance_uid" in record.dicom_notes:
        study = None
    return SourceIdentity(
        patient=_text(header, "PatientID"),
        issuer=_text(header, "IssuerOfPatientID"),
        study=study,
        accession=_text(header, "AccessionNumber"),
        taken=_day(_text(header, "ContentDate")),
    )


def _text(header: Dataset, keyword: str) -> str | None:
    return str(header.get(keyword) or "").strip() or None


def _day(text: str | None) -> date | None:
    day = date.fromisoformat(text) if text is not None else None
    return None if day == _UNKNOWN else day
