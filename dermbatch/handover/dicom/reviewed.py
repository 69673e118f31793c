"""What a reader decided as DICOM objects: the mask as a Segmentation, the rest as a verified report (TID 1500).

Both are new instances in series of their own; the objects of the models' results stay as they are.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues
from highdicom.sr import (
    AlgorithmIdentification,
    ComprehensiveSR,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PersonObserverIdentifyingAttributes,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.valuerep import DT

from dermbatch import __version__
from dermbatch.handover.dicom.header import nameless, source_header
from dermbatch.handover.dicom.report import listed, refer, referenced_segment, scheme, source_of
from dermbatch.handover.dicom.segmentation import segmentation, tracking_uid
from dermbatch.handover.dicom.stamp import SYNTAX, stamped
from dermbatch.images.lesion import Mask
from dermbatch.images.quiet import quiet
from dermbatch.records import codes
from dermbatch.records.marks import MANUFACTURER
from dermbatch.records.outcome import ImageInfo, ModelUsed
from dermbatch.records.review import Decision
from dermbatch.records.uids import uid_of

REVISION = "2"
"""To be raised whenever the same decision gives different objects: they need different UIDs then."""

SERIES_NUMBER = {"segmentation": 9011, "report": 9012}
Kind = Literal["segmentation", "report"]

_DESCRIPTIONS: dict[Kind, str] = {
    "segmentation": "Dermbatch lesion mask, reviewed",
    "report": "Dermbatch report, reviewed",
}
_Group = PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
_LONGEST_NAME = 64
_ORGANIZATION = "not stated"


def reviewed_objects(
    data: bytes,
    image: ImageInfo,
    decision: Decision,
    mask: Mask | None,
    model: ModelUsed,
    regions: Mapping[str, Mask],
) -> dict[Kind, bytes]:
    """The objects of a decision, as DICOM files; the same for the same arguments, byte by byte.

    Args:
        data: The source file, DICOM.
        image: What decoding found.
        decision: What the reader decided.
        mask: [H, W] uint8, not 0 where lesion; none if the decision does not mention one.
        model: The model whose mask the reader started from; for a drawing begun on an empty picture, the model
            that segmented the image.
        regions: Masks of features by their terms, likewise.

    Returns:
        The report, and the segmentation where something was drawn: the lesion, then each region of a feature.
    """
    with quiet():
        header = source_header(data, image)
        reading = _Reading(header, image, decision, mask, model, regions)
        made: dict[Kind, bytes] = {}
        drawn = reading.segmentation()
        if drawn is not None:
            made["segmentation"] = reading.file(drawn, "segmentation")
        made["report"] = reading.file(reading.report(drawn), "report")
    return made


@dataclass(frozen=True)
class _Reading:
    """What a reader decided of an image.

    Attributes:
        header: Header of the source.
        image: The source.
        decision: What was decided.
        mask: [H, W] uint8, not 0 where lesion; none if none is stated.
        model: The model whose mask the reader started from.
        regions: Masks of features by their terms, likewise.
    """

    header: Dataset
    image: ImageInfo
    decision: Decision
    mask: Mask | None
    model: ModelUsed
    regions: Mapping[str, Mask]

    @property
    def has_lesion(self) -> bool:
        """Whether a lesion was drawn."""
        return self.mask is not None and bool(self.mask.any())

    def segmentation(self) -> Dataset | None:
        """Everything that was drawn, the lesion first; none if nothing was."""
        if not self.has_lesion and not any(one.any() for one in self.regions.values()):
            return None
        names = self.names("segmentation")
        made = segmentation(
            self.mask if self.mask is not None else np.zeros((self.image.height, self.image.width), np.uint8),
            self.header,
            self.image,
            self.model,
            uid=names["uid"],
            series_uid=names["series_uid"],
            regions=self.regions,
        )
        made.SeriesNumber = SERIES_NUMBER["segmentation"]
        made.ContentDescription = "Lesion mask, looked at and kept by a reader"
        made.ContentCreatorName = _person(self.decision.reader)
        if not self.has_lesion:
            return made
        segment = made.SegmentSequence[0]
        if self.decision.seen.blank:
            segment.SegmentAlgorithmType = SegmentAlgorithmTypeValues.MANUAL.value
            del segment.SegmentationAlgorithmIdentificationSequence
            if "SegmentAlgorithmName" in segment:
                del segment.SegmentAlgorithmName
        else:
            segment.SegmentAlgorithmType = SegmentAlgorithmTypeValues.SEMIAUTOMATIC.value
        return made

    def report(self, drawn: Dataset | None) -> Dataset:
        """What was decided, of the lesion that ``drawn`` has."""
        decision, header = self.decision, self.header
        reader = PersonObserverIdentifyingAttributes(name=_person(decision.reader))
        observer = ObserverContext(observer_type=standard.DCM.Person, observer_identifying_attributes=reader)
        drawn = drawn if self.has_lesion else None
        content = MeasurementReport(
            observation_context=ObservationContext(observer_person_context=observer),
            procedure_reported=codes.IMAGING,
            referenced_images=[listed(header)],
            imaging_measurements=[self.lesion(drawn)],
            title=codes.MEASUREMENT_REPORT,
        )
        refer(content[0], header, self.image)
        evidence = nameless(header)
        names = self.names("report")
        made = ComprehensiveSR(
            evidence=[evidence] if drawn is None else [evidence, drawn],
            content=content[0],
            series_instance_uid=names["series_uid"],
            series_number=SERIES_NUMBER["report"],
            sop_instance_uid=names["uid"],
            instance_number=header.InstanceNumber,
            manufacturer=MANUFACTURER,
            is_complete=True,
            is_final=not decision.unsure,
            is_verified=True,
            verifying_observer_name=_person(decision.reader),
            verifying_organization=_ORGANIZATION,
            transfer_syntax_uid=SYNTAX,
            coding_schemes=[scheme()],
        )
        (observed,) = made.VerifyingObserverSequence
        observed.VerificationDateTime = DT(f"{decision.made:%Y%m%d%H%M%S.%f}+0000")
        return made

    def lesion(self, drawn: Dataset | None) -> _Group:
        """Diagnoses and features, and the area of what was drawn."""
        decision = self.decision
        found = [QualitativeEvaluation(codes.DIAGNOSIS, codes.finding(label)) for label in decision.diagnosis]
        if decision.unsure:
            found.append(QualitativeEvaluation(codes.CERTAINTY, codes.NOT_SURE))
        found += [QualitativeEvaluation(codes.FEATURE, codes.feature(one.term)) for one in decision.features]
        tracked = TrackingIdentifier(uid=tracking_uid(self.header, self.image), identifier="lesion")
        group: _Group
        if drawn is None or self.mask is None:
            if self.mask is not None:
                found.insert(0, QualitativeEvaluation(codes.OUTCOME, codes.NO_LESION))
            group = MeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracked,
                qualitative_evaluations=found,
                source_images=[SourceImageForMeasurementGroup(*source_of(self.header, self.image))],
            )
        else:
            group = PlanarROIMeasurementsAndQualitativeEvaluations(
                tracking_identifier=tracked,
                referenced_segment=referenced_segment(drawn, self.header, self.image),
                finding_type=codes.SKIN_LESION,
                finding_sites=[FindingSite(codes.SKIN)],
                measurements=[self.area(self.mask)],
                qualitative_evaluations=found,
            )
        if words := _text(decision.comment):
            comment = TextContentItem(codes.COMMENT, words, RelationshipTypeValues.CONTAINS)
            group[0].ContentSequence.append(comment)
        return group

    def area(self, mask: Mask) -> Measurement:
        """Of the lesion, in mm2 where the image says how large its pixels are."""
        pixels, spacing = int(np.count_nonzero(mask)), self.image.pixel_spacing_mm
        value, unit = float(pixels), codes.PIXELS
        if spacing is not None:
            value, unit = pixels * spacing[0] * spacing[1], codes.SQUARE_MILLIMETRES
        began = "an empty picture" if self.decision.seen.blank else f"{self.model.name} {self.model.version}"
        by = AlgorithmIdentification(
            name=f"{MANUFACTURER} review", version=__version__, parameters=[f"begun from {began}"]
        )
        return Measurement(codes.AREA, value, unit, algorithm_id=by)

    def names(self, kind: Kind) -> dict[str, str]:
        """UIDs of an object and its series: different for each decision."""
        digest = hashlib.sha256(self.decision.to_json()).hexdigest()
        ours = ("reviewed", kind, REVISION, __version__, self.header.SOPInstanceUID, self.image.sha256, digest)
        return {"uid": uid_of("instance", *ours), "series_uid": uid_of("series", *ours)}

    def file(self, made: Dataset, kind: Kind) -> bytes:
        """An object as a file."""
        return stamped(made, self.header, _DESCRIPTIONS[kind], self.model, at=self.decision.made)


def _text(comment: str) -> str:
    """A comment as DICOM allows it (PS3.5, 6.2: UT): line ends are its only control characters."""
    plain = (sign for sign in comment if sign in "\n\r\t\f" or unicodedata.category(sign) != "Cc")
    return "".join(plain).strip()


def _person(name: str) -> str:
    """A reader's name as DICOM allows it (PS3.5, 6.2: PN): without the characters that separate its parts."""
    plain = "".join(" " if sign in "\\^=" or not sign.isprintable() else sign for sign in name).strip()
    return f"{plain[: _LONGEST_NAME - 1] or 'unknown'}^"
