"""The DICOM objects of an image: what they say, whose they are, and that a repeat gives the same."""

from dataclasses import replace
from io import BytesIO

import cv2
import highdicom as hd
import numpy as np
import pytest
from handed_over import MODELS, UID, Made, flags_of, looked_at, source, values
from pydicom import dcmread
from standins import Store, whole_triton

from dermbatch import layout
from dermbatch.errors import ModelContractError
from dermbatch.images import png
from dermbatch.images.lesion import border_zone
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from dermbatch.records import codes
from dermbatch.records.asked import ImageJob, Order, Shadow
from dermbatch.review.files import mask_of
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers.image.pictures import BORDER, read_back
from workers.process.shadow import run_shadow


@pytest.fixture(scope="module")
def made():
    return looked_at(FrameOfReferenceUID="1.2.3.4")


@pytest.fixture(scope="module")
def original():
    return dcmread(BytesIO(source()))


def test_objects_lie_beside_the_result_and_the_record_names_them(made):
    prefix = "batches/b/dicom/000001/2-"
    assert made.record.dicom == {
        "segmentation": f"{prefix}seg.dcm",
        "report": f"{prefix}sr.dcm",
        "enhanced": f"{prefix}enhanced.dcm",
    }
    assert made.record.no_dicom is None
    assert set(made.store.keys("^batches/")) == set(made.record.dicom.values())
    assert made.record.seconds["dicom"] > 0


def test_all_are_in_the_sources_study_in_series_of_their_own(made, original):
    read = [made.read(kind) for kind in made.files]
    for dataset in read:
        for keyword in (
            "StudyInstanceUID",
            "PatientID",
            "PatientName",
            "StudyDate",
            "StudyTime",
            "AccessionNumber",
        ):
            assert dataset[keyword].value == original[keyword].value
        assert UID.fullmatch(dataset.SOPInstanceUID)
        assert UID.fullmatch(dataset.SeriesInstanceUID)
        assert "not for diagnosis on its own" in dataset.SeriesDescription
        assert dataset.ContentDate == original.ContentDate
        assert "InstanceCreationDate" not in dataset
    assert len({dataset.SeriesInstanceUID for dataset in read} | {original.SeriesInstanceUID}) == 4
    assert len({dataset.SOPInstanceUID for dataset in read}) == 3


def test_a_border_map_adds_the_zone_in_which_the_lesion_ends_as_a_second_segment():
    client = whole_triton()
    told = client.models[Stage.SEGMENT]
    client.models[Stage.SEGMENT] = replace(told, shapes={**told.shapes, "BORDER": (-1, -1)})
    plain = client.functions["segment"]

    def faded(IMAGE):  # noqa: N803 - the tensor's name
        lesion = plain(IMAGE)["LESION"]
        return {"LESION": lesion, "BORDER": cv2.GaussianBlur(lesion, (0, 0), 4)}

    client.functions["segment"] = faded
    made = Made(source(FrameOfReferenceUID="1.2.3.4"), client=client)
    read = made.read("segmentation")
    seg = hd.seg.Segmentation.from_dataset(read)
    mask = made.picture(Stage.SEGMENT, "mask.png") > 0
    zone = border_zone(read_back(made.store, made.record.stages[Stage.SEGMENT], BORDER), mask.shape)
    assert 0.05 < (zone & mask).sum() / zone.sum() < 0.95  # on both sides of the outline
    assert (seg.pixel_array == np.stack([mask, zone])).all()
    frames = read.PerFrameFunctionalGroupsSequence
    assert [one.SegmentIdentificationSequence[0].ReferencedSegmentNumber for one in frames] == [1, 2]
    assert all("PlanePositionSequence" in one for one in frames)
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["Lesion", "Border zone"]
    assert len({segment.TrackingUID for segment in seg.SegmentSequence}) == 2
    np.testing.assert_array_equal(mask_of(made.files["segmentation"], *mask.shape) > 0, mask)


def test_the_segmentation_is_the_mask_on_the_sources_grid(made, original):
    seg = hd.seg.Segmentation.from_dataset(made.read("segmentation"))
    mask = made.picture(Stage.SEGMENT, "mask.png") > 0
    assert (seg.pixel_array.reshape(mask.shape) == mask).all()
    assert seg.SegmentationType == "BINARY"
    (segment,) = seg.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "95324001"
    assert hd.color.CIELabColor.from_dicom_value(segment.RecommendedDisplayCIELabValue).to_rgb() == (0, 230, 118)
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    used = made.record.stages[Stage.SEGMENT].model
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (used.name, used.version)
    assert used.sha256 in algorithm.AlgorithmParameters
    (derivation,) = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    (reference,) = derivation.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert seg.FrameOfReferenceUID == "1.2.3.4"
    spacing = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(mm) for mm in spacing] == pytest.approx(list(made.record.source.pixel_spacing_mm))


def test_the_report_holds_measures_and_probabilities(made):
    measured = values(made)
    lesion = made.record.stages[Stage.SEGMENT].output.lesion
    classes = made.record.stages[Stage.CLASSIFY].output
    for name, value, unit in (
        ("42798000", lesion.area_mm2, "mm2"),
        ("131191004", lesion.perimeter_mm, "mm"),
        ("81827009", lesion.diameter_mm, "mm"),
        ("ASYMMETRY", lesion.asymmetry, "1"),
        ("BORDER", lesion.border_irregularity, "1"),
        ("P-MEL", classes.probabilities["melanoma"], "1"),
        ("P-NV", classes.probabilities["nevus"], "1"),
        ("P-SK", classes.probabilities["seborrheic_keratosis"], "1"),
    ):
        assert measured[name] == (pytest.approx(value, rel=1e-6, abs=1e-9), unit), name
    assert measured["MOST-PROBABLE"] == codes.finding(classes.label).value


def test_the_report_names_algorithms_and_the_mask_and_is_preliminary(made, original):
    report = made.read("report")
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE",
        "PRELIMINARY",
        "UNVERIFIED",
    )
    text = report.to_json()
    for stage in (Stage.SEGMENT, Stage.CLASSIFY):
        assert made.record.stages[stage].model.sha256 in text
    referenced = {
        instance.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert referenced == {original.SOPInstanceUID, made.read("segmentation").SOPInstanceUID}
    (scheme,) = [i for i in report.CodingSchemeIdentificationSequence if i.CodingSchemeDesignator == "99DERMBATCH"]
    assert scheme.CodingSchemeResponsibleOrganization == "Dermbatch"
    assert "not for diagnosis on its own" in text


def test_the_picture_is_the_enhanced_one_and_says_what_it_is(made, original):
    shown = made.read("enhanced")
    assert (shown.pixel_array == made.picture(Stage.ENHANCE, "enhanced.png")).all()
    assert list(shown.ImageType[:2]) == ["DERIVED", "SECONDARY"]
    assert "not for diagnosis on its own" in shown.ImageComments
    assert "measure on the original" in shown.DerivationDescription
    assert "painted over" in shown.DerivationDescription
    assert shown.SourceImageSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    assert shown.LossyImageCompression == "01"  # as its source: what was lost does not come back
    scale = made.record.stages[Stage.ENHANCE].output.scale
    assert float(shown.PixelSpacing[0]) * scale == pytest.approx(made.record.source.pixel_spacing_mm[0], rel=1e-6)


@pytest.mark.parametrize("declared", ["YES", "NO", None])
def test_burned_in_text_is_only_spoken_of_where_the_source_does(declared):
    shown = looked_at(**({} if declared is None else {"BurnedInAnnotation": declared})).read("enhanced")
    assert shown.get("BurnedInAnnotation") == declared


def test_a_repeat_gives_the_same_bytes_in_another_batch_and_with_nothing_to_run(made):
    again = Made(source(FrameOfReferenceUID="1.2.3.4"), batch="other")
    assert again.files == made.files
    cached = Made(source(FrameOfReferenceUID="1.2.3.4"), batch="third", store=again.store)
    assert set(cached.record.cached) == set(ORDER)
    assert cached.files == made.files
    gone = cached.record.stages[Stage.SEGMENT].artifacts["mask.png"]
    cached.store.delete(gone)
    assert Made(source(FrameOfReferenceUID="1.2.3.4"), batch="fourth", store=again.store).files == made.files


def test_without_the_wish_nothing_of_it_is_done():
    store = Store()
    plain = Made(source(), asked=False, store=store)
    assert (plain.record.dicom, plain.record.no_dicom) == ({}, None)
    requests = len(store.requests)
    assert requests == len(Made(source(), asked=False, store=Store()).store.requests)
    assert not [key for _, key in store.requests if "/dicom/" in key]


def test_objects_cost_their_reading_and_writing_and_no_more():
    plain, with_objects = Store(), Store()
    for more, batch in ((5, "first"), (6, "second")):  # a second run has to read the source, which it knows else
        requests = len(Made(source(), asked=False, store=plain, batch=batch).store.requests)
        assert len(Made(source(), store=with_objects, batch=batch).store.requests) == requests + more


def test_a_canary_writes_no_objects():
    made = Made(source())
    made.store.requests.clear()
    job = ImageJob(
        batch="b",
        index=1002,
        name="a",
        source="s3://incoming/x",
        order=Order(models=MODELS, dicom=True),
        shadow=Shadow(canary="try", models=MODELS),
    )
    servers = {"store": made.store, "client": whole_triton(), "limits": WorkerSettings()}
    segmented = made.record.stages[Stage.SEGMENT]
    other = segmented.model_copy(update={"model": segmented.model.model_copy(update={"version": "9"})})
    record = made.record.model_copy(update={"stages": made.record.stages | {Stage.SEGMENT: other}})
    run_shadow(job, record, **servers, alive=lambda: None)
    written = [key for what, key in made.store.requests if what == "put"]
    assert layout.canary_result("try", "b", 1002) in written
    assert not [key for key in written if "/dicom/" in key]


def test_a_photograph_is_left_out_with_its_reason():
    made = Made(png.encode(phantom(3, height=120, width=160).image))
    assert made.record.dicom == {}
    assert made.record.no_dicom == "not_dicom"


def test_an_image_without_lesion_has_a_report_that_says_so():
    dataset = dcmread(
        BytesIO(dicom(phantom(3, height=64, width=64), identity=3, sop_class=SECONDARY_CAPTURE, jpeg=False))
    )
    dataset.PixelData = b"\xc8\x96\x82" * (64 * 64)
    file = BytesIO()
    dataset.save_as(file)
    made = Made(file.getvalue())
    assert set(made.files) == {"report"}
    assert values(made)["SEG-OUTCOME"] == "NO-LESION"


def test_without_spacing_measures_are_in_pixels():
    made = looked_at(PixelSpacing=None)
    lesion = made.record.stages[Stage.SEGMENT].output.lesion
    assert values(made)["42798000"] == (lesion.area_px, "{pixels}")
    assert values(made)["81827009"][1] == "{pixels}"
    assert "PixelSpacing" not in made.read("enhanced")


def test_only_what_was_run_is_told():
    made = Made(source(), stages=(Stage.SEGMENT,))
    assert set(made.files) == {"segmentation", "report"}
    assert not [name for name in values(made) if name.startswith("P-")]
    assert Made(source(), stages=(Stage.PURIFY,)).record.no_dicom == "nothing_to_say"


def test_burned_in_text_reaches_the_dicom_report():
    for stages in (ORDER, (Stage.CLASSIFY,), (Stage.SEGMENT,)):
        made = Made(source(), text=True, stages=stages)
        assert "burned_in_text" in made.record.flags
        assert "Q-TEXT" in flags_of(made)
    assert "Q-TEXT" not in flags_of(looked_at())


def test_what_is_no_dermoscopic_image_gets_no_diagnosis():
    made = Made(source(), client=whole_triton(distance=1.25))
    output = made.record.stages[Stage.CLASSIFY].output
    assert (output.probabilities, output.label, output.distance) == ({}, None, 1.25)
    assert "not_dermoscopic" in made.record.flags
    assert "Q-NOT-DERMOSC" in flags_of(made)
    report = made.read("report")
    names = [
        item.CodeValue
        for element in report.iterall()
        if element.VR == "SQ"
        for item in element.value
        if "CodeValue" in item
    ]
    assert "NOT-CLASSIFIED" in names
    assert not [name for name in names if name.startswith("P-")]


def test_what_is_within_the_distance_is_classified():
    made = Made(source(), client=whole_triton(distance=1.0))
    output = made.record.stages[Stage.CLASSIFY].output
    assert output.label is not None
    assert output.distance == 1.0
    assert "not_dermoscopic" not in made.record.flags
    with pytest.raises(ModelContractError):
        Made(source(), client=whole_triton(distance=float("nan")))


def test_codes_fit_their_value_representations():
    labels = ["melanoma", "NV", "seborrheic keratosis", "bcc", "akiec", "bkl", "df", "vasc", "x" * 200, "a\\b"]
    used = [make(label) for label in labels for make in (codes.finding, codes.probability)]
    own = [code for code in vars(codes).values() if isinstance(code, codes.Code)] + list(codes.QUALITY.values())
    for code in used + own:
        assert 1 <= len(code.value) <= 16  # SH
        assert 1 <= len(code.meaning) <= 64  # LO
        assert "\\" not in code.meaning
    assert len({code.value for code in used}) == len(used)


def test_keys_hold_nothing_but_batch_and_number():
    assert layout.dicom("b", 1234, "report") == "batches/b/dicom/000001/234-sr.dcm"


def test_a_source_of_a_class_for_many_frames_is_referenced_as_it_is():
    true_colour = "1.2.840.10008.5.1.4.1.1.7.4"
    body = dicom(phantom(3, height=120, width=160), identity=3, sop_class=true_colour, jpeg=False)
    made = Made(body)
    assert set(made.files) == {"segmentation", "report", "enhanced"}
    seg = made.read("segmentation")
    (reference,) = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    (instance,) = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert reference.ReferencedSOPClassUID == instance.ReferencedSOPClassUID == true_colour


def test_frames_of_a_file_have_objects_of_their_own_that_say_which():
    dataset = dcmread(
        BytesIO(dicom(phantom(3, height=120, width=160), identity=3, sop_class=SECONDARY_CAPTURE, jpeg=False))
    )
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7.4"
    dataset.NumberOfFrames = 2
    dataset.PixelData = dataset.PixelData[: 120 * 160 * 3] * 2
    file = BytesIO()
    dataset.save_as(file)
    first, second = Made(file.getvalue(), frame=1), Made(file.getvalue(), frame=2)
    for kind in ("segmentation", "report", "enhanced"):
        assert first.read(kind).SOPInstanceUID != second.read(kind).SOPInstanceUID
        assert second.read(kind).InstanceNumber == 2
    assert second.read("enhanced").SourceImageSequence[0].ReferencedFrameNumber == 2
    seg = second.read("segmentation")
    (reference,) = seg.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    assert reference.ReferencedFrameNumber == 2
    frames = [
        element.value for element in second.read("report").iterall() if element.keyword == "ReferencedFrameNumber"
    ]
    assert frames == [2, 2, 2]  # in the image library, as the source of the mask, and of the classification
