"""Measures and probabilities as a structured report after TID 1500, Measurement Report (PS3.16)."""

from __future__ import annotations

from collections.abc import Iterable

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    ComprehensiveSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegmentationFrame,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForSegmentation,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as standard
from pydicom.uid import SecondaryCaptureImageStorage, VLPhotographicImageStorage

from dermbatch import __version__
from dermbatch.handover.dicom.header import nameless
from dermbatch.handover.dicom.segmentation import tracking_uid
from dermbatch.handover.dicom.stamp import SYNTAX
from dermbatch.records import codes
from dermbatch.records.marks import MANUFACTURER
from dermbatch.records.measures import Measure, measures, most_probable, probabilities
from dermbatch.records.outcome import (
    ClassifyOutput,
    ImageInfo,
    ModelUsed,
    QualityFlag,
    SegmentOutput,
    StageRecord,
)
from dermbatch.records.uids import uid_of

SERIES_NUMBER = 9002

Group = PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations


def report(
    header: Dataset,
    image: ImageInfo,
    segmented: StageRecord | None,
    classified: StageRecord | None,
    flags: Iterable[QualityFlag],
    *,
    mask: Dataset | None,
    uid: str,
    series_uid: str,
) -> Dataset:
    """The report on an image.

    Args:
        header: Header of the source.
        image: The source.
        segmented: What segmentation found; none if it was not asked for.
        classified: What classification found, likewise. At least one of the two is required.
        flags: Quality flags.
        mask: The segmentation object, where there is a lesion.
        uid: Its SOP Instance UID.
        series_uid: Its Series Instance UID.
    """
    groups: list[Group] = []
    if segmented is not None:
        groups.append(_lesion(header, image, segmented, flags, mask))
    if classified is not None:
        groups.append(_classes(header, image, classified))
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=_observer()),
        procedure_reported=codes.IMAGING,
        referenced_images=[listed(header)],
        imaging_measurements=groups,
        title=codes.MEASUREMENT_REPORT,
    )
    refer(content[0], header, image)
    evidence = nameless(header)
    made = ComprehensiveSR(
        evidence=[evidence] if mask is None else [evidence, mask],
        content=content[0],
        series_instance_uid=series_uid,
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid,
        instance_number=header.InstanceNumber,
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,  # Preliminary Flag: a person has to look at it (PS3.3, C.17.2)
        is_verified=False,
        transfer_syntax_uid=SYNTAX,
        coding_schemes=[scheme()],
    )
    return made


def scheme() -> CodingSchemeIdentificationItem:
    """How the report introduces our own codes (Coding Scheme Identification Sequence, PS3.3, C.12.1)."""
    return CodingSchemeIdentificationItem(
        designator=codes.SCHEME,
        name="Codes of Dermbatch (docs/pacs.md)",
        responsible_organization="Dermbatch",
    )


def _observer() -> ObserverContext:
    return ObserverContext(
        observer_type=standard.DCM.Device,
        observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
            uid=uid_of("device", MANUFACTURER, __version__),
            name=MANUFACTURER,
            manufacturer_name=MANUFACTURER,
            model_name=f"{MANUFACTURER} {__version__}",
        ),
    )


def _algorithm(model: ModelUsed) -> AlgorithmIdentification:
    return AlgorithmIdentification(name=model.name, version=model.version, parameters=[f"sha256={model.sha256}"])


def listed(header: Dataset) -> Dataset:
    """The source as highdicom lists it; highdicom derives the modality from the class and does not know all."""
    listed = nameless(header)
    listed.Modality = (
        "OT"  # highdicom looks only at cross-sectional images and projection radiography; this is not written
    )
    if listed.SOPClassUID != VLPhotographicImageStorage:
        listed.SOPClassUID = SecondaryCaptureImageStorage
    return listed


def refer(content: Dataset, header: Dataset, image: ImageInfo) -> None:
    """Name the source in the image library (TID 1600) by its own SOP Class, and the frame that was looked at."""
    (library,) = (item for item in content.ContentSequence if item.name == standard.DCM.ImageLibrary)
    (listed,) = (item for group in library.ContentSequence for item in group.ContentSequence)
    (reference,) = listed.ReferencedSOPSequence
    reference.ReferencedSOPClassUID = header.SOPClassUID
    if image.frame is not None:
        reference.ReferencedFrameNumber = image.frame


def source_of(header: Dataset, image: ImageInfo) -> tuple[str, str, list[int] | None]:
    """SOP Class and Instance of the source, and the frame that was looked at where it has several."""
    return header.SOPClassUID, header.SOPInstanceUID, None if image.frame is None else [image.frame]


def _lesion(
    header: Dataset, image: ImageInfo, record: StageRecord, flags: Iterable[QualityFlag], mask: Dataset | None
) -> PlanarROIMeasurementsAndQualitativeEvaluations | MeasurementsAndQualitativeEvaluations:
    """What was measured on the mask, or that there is no lesion."""
    assert isinstance(record.output, SegmentOutput)  # noqa: S101 - the stage says so
    raised = [QualitativeEvaluation(codes.QUALITY_FLAG, codes.QUALITY[flag]) for flag in flags]
    tracked = TrackingIdentifier(uid=tracking_uid(header, image), identifier="lesion")
    geometry = record.output.lesion
    if geometry is None or mask is None:
        none = QualitativeEvaluation(codes.OUTCOME, codes.NO_LESION)
        return MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracked,
            algorithm_id=_algorithm(record.model),
            qualitative_evaluations=[none, *raised],
            source_images=[SourceImageForMeasurementGroup(*source_of(header, image))],
        )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracked,
        referenced_segment=referenced_segment(mask, header, image),
        finding_type=codes.SKIN_LESION,
        finding_sites=[FindingSite(codes.SKIN)],
        algorithm_id=_algorithm(record.model),
        measurements=[_measured(one, record.model) for one in measures(geometry)],
        qualitative_evaluations=raised,
    )


def referenced_segment(mask: Dataset, header: Dataset, image: ImageInfo) -> ReferencedSegmentationFrame:
    """The one segment of a mask. Only one of segment and frame number may be given (PS3.3, C.18.4)."""
    segment = ReferencedSegmentationFrame(
        sop_class_uid=mask.SOPClassUID,
        sop_instance_uid=mask.SOPInstanceUID,
        frame_number=1,
        segment_number=1,
        source_image=SourceImageForSegmentation(*source_of(header, image)),
    )
    del segment[0].ReferencedSOPSequence[0].ReferencedFrameNumber  # viewers look for the segment
    return segment


def _measured(one: Measure, model: ModelUsed) -> Measurement:
    """A measure with its algorithm (TID 4019): viewers fail on a measurement that contains nothing."""
    return Measurement(
        one.name,
        one.value,
        one.unit,
        algorithm_id=_algorithm(model),
        derivation=one.derivation,
        method=one.method,
    )


def _classes(header: Dataset, image: ImageInfo, record: StageRecord) -> MeasurementsAndQualitativeEvaluations:
    """Every class's probability, and the most probable class.

    Probabilities are measurements, and no class is the group's Finding: a viewer would show an improbable melanoma
    as a finding of melanoma.
    """
    output = record.output
    assert isinstance(output, ClassifyOutput)  # noqa: S101 - the stage says so
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uid_of("classes", header.SOPInstanceUID, str(image.frame or 1)), identifier="classification"
        ),
        algorithm_id=_algorithm(record.model),
        measurements=[_measured(one, record.model) for one in probabilities(output)],
        qualitative_evaluations=[QualitativeEvaluation(codes.MOST_PROBABLE, most_probable(output))],
        source_images=[SourceImageForMeasurementGroup(*source_of(header, image))],
    )
    comment = TextContentItem(codes.COMMENT, codes.NOT_ALONE, RelationshipTypeValues.CONTAINS)
    group[0].ContentSequence.append(comment)
    return group
