"""What viewers ask of derived objects, read off OHIF's SOP class handlers and the SEG adapter of Cornerstone3D."""

from io import BytesIO

import pytest
from handed_over import Made, looked_at, source
from pydicom import dcmread
from pydicom.uid import generate_uid

from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.stages import Stage

TRACKING_IDENTIFIER, TRACKING_UID = "112039", "112040"
IMAGE_LIBRARY, IMAGE_LIBRARY_GROUP = "111028", "126200"
MEASUREMENT_REPORT, IMAGING_MEASUREMENTS, MEASUREMENT_GROUP = "126000", "126010", "125007"


@pytest.fixture(scope="module")
def placed():
    return looked_at(FrameOfReferenceUID="1.2.3.4")


@pytest.fixture(scope="module")
def plain():
    return looked_at(PixelSpacing=None)


@pytest.fixture(params=["placed", "plain"])
def made(request):
    return request.getfixturevalue(request.param)


def concept(item):
    return item.ConceptNameCodeSequence[0].CodeValue


def inside(item, code):
    return [one for one in item.ContentSequence if concept(one) == code]


def groups(report):
    (measured,) = inside(report, IMAGING_MEASUREMENTS)
    return inside(measured, MEASUREMENT_GROUP)


def test_a_mask_leads_to_the_series_and_the_instance_that_it_is_of(made):
    """Without ReferencedSeriesSequence the handler gives no display set at all."""
    seg, original = made.read("segmentation"), dcmread(BytesIO(source()))
    (series,) = seg.ReferencedSeriesSequence
    (instance,) = series.ReferencedInstanceSequence
    assert series.SeriesInstanceUID == original.SeriesInstanceUID
    assert instance.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert instance.ReferencedSOPClassUID == original.SOPClassUID
    assert seg.StudyInstanceUID == original.StudyInstanceUID


def test_each_mask_and_each_report_is_a_series_of_its_own_in_the_same_study():
    """Of a series, the handlers show the last instance alone."""
    first = dcmread(BytesIO(source()))
    second = dcmread(BytesIO(dicom(phantom(5, height=120, width=160), identity=3)))
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
        setattr(second, keyword, first[keyword].value)
    second.SOPInstanceUID = generate_uid(entropy_srcs=["second"])
    file = BytesIO()
    second.save_as(file)
    one, other = looked_at(), Made(file.getvalue())
    for kind in ("segmentation", "report"):
        assert one.read(kind).StudyInstanceUID == other.read(kind).StudyInstanceUID
        assert one.read(kind).SeriesInstanceUID != other.read(kind).SeriesInstanceUID
    assert one.read("enhanced").SeriesInstanceUID == other.read("enhanced").SeriesInstanceUID  # scrolled through


def test_a_mask_says_segment_and_source_by_its_frame(made):
    (frame,) = made.read("segmentation").PerFrameFunctionalGroupsSequence
    assert frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1
    assert len(frame.DerivationImageSequence[0].SourceImageSequence) == 1


def test_with_a_frame_of_reference_a_mask_has_a_plane_and_pixel_measures(placed):
    seg = placed.read("segmentation")
    (shared,), (frame,) = seg.SharedFunctionalGroupsSequence, seg.PerFrameFunctionalGroupsSequence
    assert seg.FrameOfReferenceUID == "1.2.3.4"
    # What viewers take an image without orientation for, so that mask and image are one plane.
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == [1, 0, 0, 0, 1, 0]
    assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == [0, 0, 0]
    (measures,) = shared.PixelMeasuresSequence
    spacing = placed.record.source.pixel_spacing_mm
    assert [float(mm) for mm in measures.PixelSpacing] == pytest.approx(list(spacing))
    assert float(measures.SliceThickness) > 0


@pytest.mark.parametrize(
    ("orientation", "kept"),
    [
        ([0, 1, 0, 0, 0, -1], [0, 1, 0, 0, 0, -1]),
        ([2, 0, 0, 0, 1, 0], [1, 0, 0, 0, 1, 0]),  # no direction has a length of 2
        ([1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 1, 0]),  # no plane
        ([1, 0, 0], [1, 0, 0, 0, 1, 0]),
        (None, [1, 0, 0, 0, 1, 0]),
    ],
)
def test_a_plane_is_the_sources_where_that_says_one(orientation, kept):
    more = {} if orientation is None else {"ImageOrientationPatient": orientation}
    body = source(FrameOfReferenceUID="1.2.3.4", ImagePositionPatient=[5, 6, 7], **more)
    seg = Made(body, stages=(Stage.SEGMENT,)).read("segmentation")
    (shared,), (frame,) = seg.SharedFunctionalGroupsSequence, seg.PerFrameFunctionalGroupsSequence
    assert list(shared.PlaneOrientationSequence[0].ImageOrientationPatient) == kept
    own = kept == orientation
    assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == ([5, 6, 7] if own else [0, 0, 0])


def test_without_a_frame_of_reference_no_plane_is_made_up(plain):
    seg = plain.read("segmentation")
    assert "FrameOfReferenceUID" not in seg
    told = {element.keyword for element in seg.iterall()}
    assert not told & {"PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence"}


def test_every_group_of_a_report_is_tracked_by_a_name_and_one_uid(made):
    """The handler merges groups by Tracking Unique Identifier, and takes the first UIDREF of a group for it."""
    report = made.read("report")
    assert concept(report) == MEASUREMENT_REPORT
    found = groups(report)
    assert len(found) == 2
    for group in found:
        (identifier,), (uid,) = inside(group, TRACKING_IDENTIFIER), inside(group, TRACKING_UID)
        assert identifier.TextValue in {"lesion", "classification"}
        assert [item for item in group.ContentSequence if item.ValueType == "UIDREF"] == [uid]
    assert len({inside(group, TRACKING_UID)[0].UID for group in found}) == 2


def test_the_lesion_is_tracked_by_the_same_uid_in_mask_and_report(made):
    lesion = groups(made.read("report"))[0]
    (segment,) = made.read("segmentation").SegmentSequence
    assert segment.TrackingUID == inside(lesion, TRACKING_UID)[0].UID
    assert inside(lesion, TRACKING_IDENTIFIER)[0].TextValue == segment.TrackingID


def test_a_report_lists_its_source_in_the_image_library(made):
    """Handlers of several versions look into the library unasked."""
    report, original = made.read("report"), dcmread(BytesIO(source()))
    (library,) = inside(report, IMAGE_LIBRARY)
    (group,) = inside(library, IMAGE_LIBRARY_GROUP)
    (listed,) = [item for item in group.ContentSequence if "ReferencedSOPSequence" in item]
    (reference,) = listed.ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == original.SOPClassUID


def test_every_number_of_a_report_contains_more_than_one_item(made):
    """Handlers failed at one without content (OHIF, pull request 5703), and pass over one with a single code."""
    numbers = [item for group in groups(made.read("report")) for item in group.ContentSequence]
    numbers = [item for item in numbers if item.ValueType == "NUM"]
    assert len(numbers) == 8
    assert all(len(item.ContentSequence) > 1 for item in numbers)


def test_a_picture_is_what_a_stack_of_images_needs(made):
    shown, original = made.read("enhanced"), dcmread(BytesIO(source()))
    assert shown.StudyInstanceUID == original.StudyInstanceUID
    for keyword in ("Rows", "Columns", "PhotometricInterpretation", "InstanceNumber", "SeriesNumber", "Modality"):
        assert shown[keyword].value not in (None, "")
