"""Whether two images show the same lesion or person, as far as anything says so."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO

import pydicom
from pydicom.errors import InvalidDicomError

from dermbatch.errors import ObjectNotFound, PermanentError
from dermbatch.records.asked import Batch
from dermbatch.records.outcome import ResultRecord
from dermbatch.store import ObjectStore, split_uri
from orchestrator.similar.cases import person_of
from orchestrator.similar.facts import KnownFacts
from orchestrator.similar.shelf import IndexedCase

SAME_PICTURE = 0.985
"""Cosine of two embeddings from which both are taken for pictures of one lesion."""

_DICOM = "application/dicom"
_HEAD = 256 << 10
_WHO = ("IssuerOfPatientID", "PatientID")


class Identity:
    """The lesion and the person of one image.

    Args:
        store: Has the sources.
        record: The image.
        batch: Its batch.
        facts: What the institution says.
    """

    def __init__(self, store: ObjectStore, record: ResultRecord, batch: Batch, facts: KnownFacts) -> None:
        self._store, self._record = store, record
        self._person = person_of(record.name, batch)
        self._facts = facts.of(record.source.sha256, record.name)
        self._patient = patient_of(store, record)

    def is_image(self, case: IndexedCase) -> bool:
        """Whether a case is the image itself."""
        return case.sha256 == self._record.source.sha256

    def is_same(self, case: IndexedCase, record: ResultRecord, whole: float) -> bool:
        """Whether a case is of the same lesion or person.

        Pseudonyms, the institution's facts and DICOM headers tell; pictures without any of these count as the same
        lesion only if they are nearly identical.

        Args:
            case: As the index has it.
            record: Its record.
            whole: Cosine of both embeddings.
        """
        pairs = (
            (self._person, case.person),
            (self._facts.patient, case.facts.patient),
            (self._facts.lesion, case.facts.lesion),
        )
        if whole >= SAME_PICTURE or any(ours is not None and ours == theirs for ours, theirs in pairs):
            return True
        return self._patient is not None and self._patient == patient_of(self._store, record)


def patient_of(store: ObjectStore, record: ResultRecord) -> tuple[str, str] | None:
    """Whose picture a DICOM file says it is (issuer and Patient ID); none where nothing says so."""
    if record.source.media_type != _DICOM or not record.source.uri.startswith("s3://"):
        return None
    with suppress(ObjectNotFound, PermanentError, InvalidDicomError, ValueError, EOFError, AttributeError):
        store.audit.note("read", record.source.uri, size=_HEAD)
        head = store.span(*split_uri(record.source.uri), 0, _HEAD)
        header = pydicom.dcmread(BytesIO(head), stop_before_pixels=True, specific_tags=list(_WHO))
        issuer, patient = (str(header.get(name) or "").strip() for name in _WHO)
        return (issuer, patient) if patient else None
    return None
