"""A decision as DICOM: the mask pixel by pixel, verified by its reader, in series of its own."""

from datetime import UTC, datetime
from io import BytesIO

import cv2
import highdicom as hd
import numpy as np
import pytest
from handed_over import looked_at
from highdicom.sr import srread
from pydicom import dcmread
from standins import Store

from dermbatch import layout
from dermbatch.handover.dicom.reviewed import reviewed_objects
from dermbatch.records import codes
from dermbatch.records.outcome import KnownImage
from dermbatch.records.review import Decision, DrawnMask, Feature, Seen
from dermbatch.review.files import mask_of
from dermbatch.review.masks import runs
from dermbatch.stages import Stage
from dermbatch.stored import write
from desk.problems import Problem
from desk.review import writeback
from desk.review.masks import picture

MADE_AT = datetime(2026, 11, 27, 12, 30, 15, 250_000, tzinfo=UTC)


@pytest.fixture(scope="module")
def made():
    return looked_at(FrameOfReferenceUID="1.2.3.4")


def drawing():
    """A lesion with a hole, an island in it, a single pixel and the border."""
    mask = np.zeros((120, 160), np.uint8)
    cv2.circle(mask, (80, 60), 30, 255, -1)
    mask[50:60, 70:80] = 0
    mask[55, 75] = mask[0, 0] = 255
    mask[-1, :] = 255
    return mask


def decided(made, mask, **fields):
    source = made.record.source
    seen = Seen(sha256=source.sha256, stages={}, shown=True, blank=fields.pop("blank", False))
    drawn = None if mask is None else DrawnMask(height=120, width=160, counts=tuple(runs(mask)))
    told = {"batch": "b", "index": 0, "reader": "ada", "version": 1, "made": MADE_AT, "seen": seen, "mask": drawn}
    return Decision(**{**told, **fields})


def objects(made, mask, **fields):
    body = made.store.objects["incoming", "x"]
    model = made.record.stages[Stage.SEGMENT].model
    regions = {one.term: picture(one.region) for one in fields.get("features", ()) if one.region is not None}
    found = reviewed_objects(body, made.record.source, decided(made, mask, **fields), mask, model, regions)
    return found, {kind: dcmread(BytesIO(one)) for kind, one in found.items()}


def items(dataset):
    yield dataset
    for item in dataset.get("ContentSequence", []):
        yield from items(item)


def is_area(item):
    return item.ConceptNameCodeSequence[0].CodeValue == codes.AREA.value


def said_of(report, code):
    return [
        item.ConceptCodeSequence[0].CodeMeaning
        for item in items(report)
        if item.get("ValueType") == "CODE" and item.ConceptNameCodeSequence[0].CodeValue == code.value
    ]


def test_the_mask_comes_back_pixel_by_pixel(made):
    files, read = objects(made, drawing())
    assert np.array_equal(mask_of(files["segmentation"], 120, 160), drawing())
    assert np.array_equal(hd.seg.segread(BytesIO(files["segmentation"])).pixel_array > 0, drawing() > 0)
    assert np.array_equal(
        mask_of(made.files["segmentation"], 120, 160) > 0, made.picture(Stage.SEGMENT, "mask.png") > 0
    )
    assert read["segmentation"].ContentCreatorName == "ada^"


def region(rows):
    """A feature's region: these rows of the picture, over the lesion and beside it."""
    mask = np.zeros((120, 160), np.uint8)
    mask[rows] = 255
    return mask, DrawnMask(height=120, width=160, counts=tuple(runs(mask)))


def test_regions_of_features_are_segments_beside_the_lesion(made):
    (streaks, first), (globules, second) = region(slice(40, 70)), region(slice(3, 5))
    empty = DrawnMask(height=120, width=160, counts=(120 * 160,))
    features = (
        Feature(term="streaks", region=first),
        Feature(term="ulceration"),
        Feature(term="blue_white_veil", region=empty),
        Feature(term="globules", region=second),
    )
    for lesion in (drawing(), np.zeros((120, 160), np.uint8)):
        files, read = objects(made, lesion, features=features)
        wanted = [(codes.SKIN_LESION, lesion)] if lesion.any() else []
        wanted += [(codes.feature("streaks"), streaks), (codes.feature("globules"), globules)]
        segments = read["segmentation"].SegmentSequence
        assert [one.SegmentedPropertyTypeCodeSequence[0].CodeValue for one in segments] == [
            code.value for code, _ in wanted
        ]
        pixels = hd.seg.segread(BytesIO(files["segmentation"])).pixel_array.reshape(-1, 120, 160)
        assert all(np.array_equal(one > 0, mask > 0) for one, (_, mask) in zip(pixels, wanted, strict=True))
        assert {one.SegmentAlgorithmType for one in segments[-2:]} == {"MANUAL"}
        assert said_of(read["report"], codes.FEATURE) == ["streaks", "ulceration", "blue white veil", "globules"]
    with pytest.raises(ValueError, match="several"):
        mask_of(files["segmentation"], 120, 160)
    files, _ = objects(made, drawing(), features=features)
    assert np.array_equal(mask_of(files["segmentation"], 120, 160), drawing()), "the lesion comes back"


@pytest.mark.parametrize(("blank", "kind"), [(True, "MANUAL"), (False, "SEMIAUTOMATIC")])
def test_the_segment_says_how_it_was_drawn(made, blank, kind):
    _, read = objects(made, drawing(), blank=blank)
    (segment,) = read["segmentation"].SegmentSequence
    assert segment.SegmentAlgorithmType == kind
    assert ("SegmentationAlgorithmIdentificationSequence" in segment) is not blank


def test_the_report_is_verified_by_its_reader(made):
    features = (Feature(term="streaks"),)
    told = {
        "diagnosis": ("melanoma", "nevus"),
        "features": features,
        "comment": "the border",
        "reader": "Ada\\^=B",
    }
    files, read = objects(made, drawing(), **told)
    report = read["report"]
    flags = (report.VerificationFlag, report.CompletionFlag, report.PreliminaryFlag)
    assert flags == ("VERIFIED", "COMPLETE", "FINAL")
    (observer,) = report.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName) == "Ada   B^"
    assert str(observer.VerificationDateTime).startswith("20261127123015.250000")
    assert said_of(report, codes.DIAGNOSIS) == ["Malignant melanoma of skin", "Melanocytic nevus"]
    assert said_of(report, codes.FEATURE) == ["streaks"]
    texts = [item.TextValue for item in items(report) if item.get("ValueType") == "TEXT"]
    assert "the border" in texts
    (area,) = (item for item in items(report) if item.get("ValueType") == "NUM" and is_area(item))
    mm = made.record.source.pixel_spacing_mm
    assert float(area.MeasuredValueSequence[0].NumericValue) == pytest.approx(
        np.count_nonzero(drawing()) * mm[0] * mm[1]
    )
    assert srread(BytesIO(files["report"])).content.get_planar_roi_measurement_groups()
    assert (report.ContentDate, str(report.ContentTime)) == ("20261127", "123015.250000")


def test_what_no_text_of_dicom_may_have_is_left_out(made):
    _, read = objects(made, None, comment="a line\n\x00\x07another", diagnosis=("a\nb\\c",))
    texts = [item.TextValue for item in items(read["report"]) if item.get("ValueType") == "TEXT"]
    assert "a line\nanother" in texts
    assert said_of(read["report"], codes.DIAGNOSIS) == ["a b c"]
    for nothing in ("  ", "\x00\x1b"):
        _, read = objects(made, None, comment=nothing)
        codes_of = [
            item.ConceptNameCodeSequence[0].CodeValue for item in items(read["report"]) if "ValueType" in item
        ]
        assert codes.COMMENT.value not in codes_of


def test_the_model_is_that_of_the_run_that_was_begun_from(made):
    """Also where the image was segmented again, and the reader took that mask."""
    record, store = made.record, Store()
    own = record.stages[Stage.SEGMENT]
    newer = own.model_copy(update={"key": "f" * 32, "model": own.model.model_copy(update={"version": "99"})})
    begun = decided(made, None)

    def model(key):
        stages = {Stage.SEGMENT: key}
        seen = begun.seen.model_copy(update={"stages": stages})
        return writeback._begun_from(store, record, begun.model_copy(update={"seen": seen}))

    assert model(own.key) == own.model
    with pytest.raises(Problem, match="no longer known"):
        model(newer.key)
    image = {name: getattr(record.source, name) for name in type(record.source).__base__.model_fields}
    known = KnownImage(image=image, stages={own.key: own, newer.key: newer}, previews={})
    write(store, layout.known_of(record.source.sha256, layout.pool_of(record.preview)), known)
    assert model(newer.key).version == "99"


def test_who_is_not_sure_verifies_what_is_preliminary(made):
    _, read = objects(made, drawing(), unsure=True)
    assert read["report"].PreliminaryFlag == "PRELIMINARY"
    assert said_of(read["report"], codes.CERTAINTY) == ["The reader is not sure"]


def test_nothing_drawn_is_said_and_no_mask_is_nothing_said_of_it(made):
    files, read = objects(made, np.zeros((120, 160), np.uint8))
    assert set(files) == {"report"}
    assert said_of(read["report"], codes.OUTCOME) == ["No lesion was segmented"]
    _, read = objects(made, None, diagnosis=("nevus",))
    assert said_of(read["report"], codes.OUTCOME) == []


def test_they_are_new_instances_in_the_study_the_same_each_time(made):
    first, read = objects(made, drawing())
    assert objects(made, drawing())[0] == first
    models = [made.read(kind) for kind in made.files]
    for dataset in read.values():
        assert dataset.StudyInstanceUID == models[0].StudyInstanceUID
        assert dataset.PatientID == models[0].PatientID
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        assert len({dataset[keyword].value for dataset in (*models, *read.values())}) == len(models) + 2
    _, second = objects(made, drawing(), version=2)
    assert second["report"].SOPInstanceUID != read["report"].SOPInstanceUID
    (reference,) = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in items(read["report"])
        if item.get("ValueType") == "IMAGE"
        and item.ReferencedSOPSequence[0].ReferencedSOPClassUID == read["segmentation"].SOPClassUID
    }
    assert reference == read["segmentation"].SOPInstanceUID
