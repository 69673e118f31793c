"""What a reader decided as DICOM objects: the mask as a Segmentation, the rest as a verified report (TID 1500).

Both are new instances in series of their own; those that the models' results went out as stay as they are.
"""

from __future__ import annotations

import hashlib
import unicodedata
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

REVISION = "1"
"""Raised where the same decision gives other objects: their UIDs must be others then."""

SERIES_NUMBER = {"segmentation": 9011, "report": 9012}
Kind = Literal["segmentation", "report"]

_DESCRIPTIONS: dict[Kind, str] = {
    "segmentation": "Dermbatch lesion mask, reviewed",
    "report": "Dermbatch report, reviewed",
}
_LONGEST_NAME = 64
_ORGANIZATION = "not stated"


def reviewed_objects(
    data: bytes, image: ImageInfo, decision: Decision, mask: Mask | None, model: ModelUsed
) -> dict[Kind, bytes]:
    """The objects of a decision, as DICOM files; the same for the same arguments, byte by byte.

    Args:
        data: The source file, DICOM.
        image: What decoding said of it.
        decision: What the reader decided.
        mask: [H, W] uint8, not 0 where lesion; none where the decision says nothing of one.
        model: What the reader began from; of a drawing that began blank, what the image was segmented by.

    Returns:
        The report, and the segmentation where the mask is not empty.
    """
    with quiet():
        header = source_header(data, image)
        made: dict[Kind, bytes] = {}
        drawn: Dataset | None = None
        if mask is not None and mask.any():
            drawn = _segmentation(mask, header, image, decision, model)
            made["segmentation"] = _file(drawn, header, "segmentation", decision, model)
        said = _report(header, image, decision, mask, drawn, model)
        made["report"] = _file(said, header, "report", decision, model)
    return made


def _segmentation(mask: Mask, header: Dataset, image: ImageInfo, decision: Decision, model: ModelUsed) -> Dataset:
    names = _names("segmentation", header, image, decision)
    made = segmentation(mask, header, image, model, uid=names["uid"], series_uid=names["series_uid"])
    made.SeriesNumber = SERIES_NUMBER["segmentation"]
    made.ContentDescription = "Lesion mask, looked at and kept by a reader"
    made.ContentCreatorName = _person(decision.reader)
    (segment,) = made.SegmentSequence
    if decision.seen.blank:
        segment.SegmentAlgorithmType = SegmentAlgorithmTypeValues.MANUAL.value
        del segment.SegmentationAlgorithmIdentificationSequence
        if "SegmentAlgorithmName" in segment:
            del segment.SegmentAlgorithmName
    else:
        segment.SegmentAlgorithmType = SegmentAlgorithmTypeValues.SEMIAUTOMATIC.value
    return made


def _report(
    header: Dataset,
    image: ImageInfo,
    decision: Decision,
    mask: Mask | None,
    drawn: Dataset | None,
    model: ModelUsed,
) -> Dataset:
    observer = ObserverContext(
        observer_type=standard.DCM.Person,
        observer_identifying_attributes=PersonObserverIdentifyingAttributes(name=_person(decision.reader)),
    )
    content = MeasurementReport(
        observation_context=ObservationContext(observer_person_context=observer),
        procedure_reported=codes.IMAGING,
        referenced_images=[listed(header)],
        imaging_measurements=[_lesion(header, image, decision, mask, drawn, model)],
        title=codes.MEASUREMENT_REPORT,
    )
    refer(content[0], header, image)
    evidence = nameless(header)
    names = _names("report", header, image, decision)
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


def _lesion(
    header: Dataset,
    image: ImageInfo,
    decision: Decision,
    mask: Mask | None,
    drawn: Dataset | None,
    model: ModelUsed,
) -> PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations:
    """Diagnoses and features, and the area of what was drawn."""
    said = [QualitativeEvaluation(codes.DIAGNOSIS, codes.finding(label)) for label in decision.diagnosis]
    if decision.unsure:
        said.append(QualitativeEvaluation(codes.CERTAINTY, codes.NOT_SURE))
    said += [QualitativeEvaluation(codes.FEATURE, codes.feature(one.term)) for one in decision.features]
    tracked = TrackingIdentifier(uid=tracking_uid(header, image), identifier="lesion")
    group: PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations
    if drawn is None or mask is None:
        if mask is not None:
            said.insert(0, QualitativeEvaluation(codes.OUTCOME, codes.NO_LESION))
        group = MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracked,
            qualitative_evaluations=said,
            source_images=[SourceImageForMeasurementGroup(*source_of(header, image))],
        )
    else:
        group = PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracked,
            referenced_segment=referenced_segment(drawn, header, image),
            finding_type=codes.SKIN_LESION,
            finding_sites=[FindingSite(codes.SKIN)],
            measurements=[_area(mask, image, decision, model)],
            qualitative_evaluations=said,
        )
    if said_in_words := _text(decision.comment):
        comment = TextContentItem(codes.COMMENT, said_in_words, RelationshipTypeValues.CONTAINS)
        group[0].ContentSequence.append(comment)
    return group


def _area(mask: Mask, image: ImageInfo, decision: Decision, model: ModelUsed) -> Measurement:
    pixels, spacing = int(np.count_nonzero(mask)), image.pixel_spacing_mm
    value, unit = float(pixels), codes.PIXELS
    if spacing is not None:
        value, unit = pixels * spacing[0] * spacing[1], codes.SQUARE_MILLIMETRES
    began = "an empty picture" if decision.seen.blank else f"{model.name} {model.version}"
    by = AlgorithmIdentification(
        name=f"{MANUFACTURER} review", version=__version__, parameters=[f"begun from {began}"]
    )
    return Measurement(codes.AREA, value, unit, algorithm_id=by)


def _names(kind: Kind, header: Dataset, image: ImageInfo, decision: Decision) -> dict[str, str]:
    digest = hashlib.sha256(decision.to_json()).hexdigest()
    ours = ("reviewed", kind, REVISION, __version__, header.SOPInstanceUID, image.sha256, digest)
    return {"uid": uid_of("instance", *ours), "series_uid": uid_of("series", *ours)}


def _file(made: Dataset, header: Dataset, kind: Kind, decision: Decision, model: ModelUsed) -> bytes:
    return stamped(made, header, _DESCRIPTIONS[kind], model, at=decision.made)


def _text(comment: str) -> str:
    """A comment as it may stand in DICOM (PS3.5, 6.2: UT): of control characters, those that end lines alone."""
    plain = (sign for sign in comment if sign in "\n\r\t\f" or unicodedata.category(sign) != "Cc")
    return "".join(plain).strip()


def _person(name: str) -> str:
    """A reader's name as it may stand in DICOM (PS3.5, 6.2: PN): without what divides names there."""
    plain = "".join(" " if sign in "\\^=" or not sign.isprintable() else sign for sign in name).strip()
    return f"{plain[: _LONGEST_NAME - 1] or 'unknown'}^"
