"""The DICOM objects of an image: what they say, whose they are, and that a repeat gives the same."""

import hashlib
import re
from dataclasses import replace
from io import BytesIO

import cv2
import highdicom as hd
import numpy as np
import pytest
from highdicom.sr import srread
from pydicom import dcmread
from standins import Store, whole_triton

from dermbatch import layout
from dermbatch.errors import ModelContractError
from dermbatch.handover.dicom.header import valid_uid
from dermbatch.images import png
from dermbatch.images.lesion import border_zone
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from dermbatch.records import codes
from dermbatch.records.asked import ImageJob, ModelChoice, Order, Shadow
from dermbatch.records.uids import uid_of
from dermbatch.review.files import mask_of
from dermbatch.settings import WorkerSettings
from dermbatch.stages import ORDER, Stage
from workers.image.pictures import BORDER, read_back
from workers.process.journey import process
from workers.process.shadow import run_shadow

MODELS = {stage: ModelChoice(name=stage.value) for stage in Stage}
UID = re.compile(r"2\.25\.(0|[1-9]\d{0,38})")


class Made:
    """An image processed with its objects."""

    def __init__(
        self, body, *, stages=ORDER, asked=True, store=None, batch="b", frame=None, text=False, client=None
    ):
        self.store = store or Store()
        self.store.put("x", body, "", bucket="incoming")
        self.store.requests.clear()
        job = ImageJob(
            batch=batch,
            index=1002,
            name="a",
            source="s3://incoming/x",
            order=Order(stages=stages, models=MODELS, dicom=asked),
            frame=frame,
            size=len(body),
            etag=self.store.etag("incoming", "x"),
            sha256=hashlib.sha256(body).hexdigest(),
            may_have_text=text,
        )
        servers = {"store": self.store, "client": client or whole_triton(), "limits": WorkerSettings()}
        self.record = process(job, **servers, attempt=1, worker="w", alive=lambda: None)

    @property
    def files(self):
        return {kind: self.store.objects["results", key] for kind, key in self.record.dicom.items()}

    def read(self, kind):
        return dcmread(BytesIO(self.files[kind]))

    def picture(self, stage, name):
        return png.decode(self.store.objects["results", self.record.stages[stage].artifacts[name]])


DRAWN = dicom(phantom(3, height=120, width=160), identity=3)


def source(**changes):
    """A phantom's DICOM file; attributes changed, or taken out where None."""
    dataset = dcmread(BytesIO(DRAWN))
    for keyword, value in changes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=False)
    return file.getvalue()


@pytest.fixture(scope="module")
def made():
    return Made(source(FrameOfReferenceUID="1.2.3.4"))


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


def values(made):
    """Of every group of the report: name of a measurement to (value, unit); of an evaluation to its code."""
    (report,) = [srread(BytesIO(made.files["report"]))]
    content = report.content
    found = {}
    for group in (*content.get_planar_roi_measurement_groups(), *content.get_image_measurement_groups()):
        for measurement in group.get_measurements():
            found[measurement.name.value] = (float(measurement.value), measurement.unit.value)
        for evaluation in group.get_qualitative_evaluations():
            found[evaluation.name.value] = evaluation.value.value
    return found


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
    shown = Made(source(**({} if declared is None else {"BurnedInAnnotation": declared}))).read("enhanced")
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


def test_another_file_under_the_same_uid_gives_other_uids():
    one, other = Made(source()), Made(source(StudyDescription="another"))
    for kind in one.files:
        assert one.read(kind).SOPInstanceUID != other.read(kind).SOPInstanceUID


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
    made = Made(source(PixelSpacing=None))
    lesion = made.record.stages[Stage.SEGMENT].output.lesion
    assert values(made)["42798000"] == (lesion.area_px, "{pixels}")
    assert values(made)["81827009"][1] == "{pixels}"
    assert "PixelSpacing" not in made.read("enhanced")


def test_only_what_was_run_is_told():
    made = Made(source(), stages=(Stage.SEGMENT,))
    assert set(made.files) == {"segmentation", "report"}
    assert not [name for name in values(made) if name.startswith("P-")]
    assert Made(source(), stages=(Stage.PURIFY,)).record.no_dicom == "nothing_to_say"


def test_a_header_of_strangers_is_mended():
    body = source(
        StudyInstanceUID='"1.2.840.99"',
        SOPInstanceUID="not a UID",
        SeriesInstanceUID="",
        FrameOfReferenceUID="1..2",
        PatientSex="female",
        StudyDate="2020-05-20",
        PatientID='"quoted"',
        PatientAge="57",
        InstanceNumber=None,
        PatientName=None,
        ContentDate=None,
    )
    made = Made(body)
    assert len(made.files) == 3
    for kind in made.files:
        read = made.read(kind)
        assert read.StudyInstanceUID == "1.2.840.99"
        assert read.PatientID == '"quoted"'  # quote marks are allowed there, and are what the PACS knows
        assert (read.PatientSex, read.StudyDate, read.PatientName) == ("", "20200520", "")
        assert "PatientAge" not in read
        assert read.InstanceNumber == 1
        assert read.ContentDate == "20200520"
    shown = made.read("enhanced")
    assert shown.SourceImageSequence[0].ReferencedSOPInstanceUID == uid_of("malformed", "not a UID")
    assert made.read("segmentation").FrameOfReferenceUID == uid_of("malformed", "1..2")


def test_names_outside_ascii_are_kept():
    body = source(PatientName="Müller^Žofie", SpecificCharacterSet="ISO_IR 192")
    read = Made(body).read("report")
    assert (str(read.PatientName), read.SpecificCharacterSet) == ("Müller^Žofie", "ISO_IR 192")


def test_a_header_that_breaks_everything_does_not_cost_the_result(monkeypatch):
    from dermbatch.handover.dicom import objects

    def broken(*_args, **_named):
        raise KeyError("a header")

    monkeypatch.setattr(objects, "source_header", broken)
    made = Made(source())
    assert made.record.no_dicom == "header_unusable"
    assert list(made.record.stages) == list(ORDER)


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.3", "1.2.3"),
        ('"1.2.3"', "1.2.3"),
        (" 1.2.3\0", "1.2.3"),
        ("2.25.0", "2.25.0"),
        ("1.02.3", "1.02.3"),  # none by PS3.5, 9.1, but what the PACS has the Study by
        ("3.4", "3.4"),
    ],
)
def test_uids_that_are_meant_well_are_kept(uid, expected):
    assert valid_uid(uid, "x") == expected


@pytest.mark.parametrize("uid", ["1", "1..2", "1.2.", "1.2." + "9" * 64, "abc", "1,2"])
def test_malformed_uids_become_valid_ones_always_the_same(uid):
    assert UID.fullmatch(valid_uid(uid))
    assert valid_uid(uid, "x") == valid_uid(f'"{uid}"', "y") != valid_uid(uid + "7")


def test_burned_in_text_reaches_the_dicom_report():
    for stages in (ORDER, (Stage.CLASSIFY,), (Stage.SEGMENT,)):
        made = Made(source(), text=True, stages=stages)
        assert "burned_in_text" in made.record.flags
        assert "Q-TEXT" in flags_of(made)
    assert "Q-TEXT" not in flags_of(Made(source()))


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


def flags_of(made):
    """Codes of the quality flags of a report."""
    found = []
    for element in made.read("report").iterall():
        if element.keyword == "ConceptCodeSequence":
            found += [item.CodeValue for item in element.value if item.CodeValue.startswith("Q-")]
    return found


@pytest.mark.parametrize(
    ("header", "written", "notes"),
    [
        (
            {"StudyDate": "2024.03.05", "StudyTime": "12:30:45"},
            ("20240305", "123045"),
            ("study_date", "study_time"),
        ),
        ({"StudyDate": "2024-03-05", "StudyTime": "1230"}, ("20240305", "1230"), ("study_date",)),
        ({"StudyDate": "2024/03/05", "StudyTime": "235960"}, ("20240305", "235960"), ("study_date",)),
        ({"StudyDate": "20240229", "StudyTime": "12:30:45.25"}, ("20240229", "123045.25"), ("study_time",)),
        ({"StudyDate": "20190229", "StudyTime": "2400"}, ("", ""), ("study_date", "study_time")),
        ({"StudyDate": "2019.13.01", "StudyTime": "12:3"}, ("", ""), ("study_date", "study_time")),
    ],
)
def test_dates_and_times_are_those_of_the_source(header, written, notes):
    made = Made(source(**header, ContentDate=None))
    for kind in made.files:
        read = made.read(kind)
        assert (read.StudyDate, read.StudyTime) == written
        assert read.ContentDate == (written[0] or "19000101")
    assert {note.split("_", 1)[1].removeprefix("out_") for note in made.record.dicom_notes} == set(notes)


@pytest.mark.parametrize(
    ("identifiers", "note"),
    [
        ({"AccessionNumber": "ACC-2026-0001-0042"}, "left_out_accession_number"),
        ({"StudyID": "S" * 17}, "left_out_study_id"),
        ({"PatientID": "P" * 65}, "left_out_patient_id"),
        ({"PatientSex": "Female"}, "left_out_patients_sex"),
    ],
)
def test_identifiers_are_whole_or_not_there(identifiers, note):
    made = Made(source(**identifiers))
    (keyword,) = identifiers
    assert note in made.record.dicom_notes
    assert all(made.read(kind)[keyword].value in ("", None) for kind in made.files)


@pytest.mark.parametrize("uid", ["1.2.840.01.5", "1.2.840.99999.007", "1.2.3." + "0" * 50])
def test_a_study_stays_where_the_pacs_has_it(uid):
    made = Made(source(StudyInstanceUID=uid, SOPInstanceUID=uid + ".01"))
    assert len(made.files) == 3
    for kind in made.files:
        assert made.read(kind).StudyInstanceUID == uid
        assert (uid + ".01").encode() in made.files[kind]
    assert made.record.dicom_notes == ()


def test_a_uid_that_cannot_be_written_is_said():
    made = Made(source(StudyInstanceUID="1.2." + "9" * 67))
    assert made.record.dicom_notes == ("replaced_study_instance_uid",)
    assert all(UID.fullmatch(made.read(kind).StudyInstanceUID) for kind in made.files)


@pytest.mark.parametrize(("encoding", "name"), [("utf-8", "Müller^Jürgen"), ("latin-1", "Müller^Jürgen")])
def test_text_without_a_character_set_is_read_by_its_bytes(encoding, name):
    body = source(SpecificCharacterSet="ISO_IR 192", PatientName="MMMMMMMMMMMMMM")
    plain = dcmread(BytesIO(body))
    del plain.SpecificCharacterSet
    file = BytesIO()
    plain.save_as(file)
    written = name.encode(encoding).ljust(14)
    assert b"M" * 14 in file.getvalue()
    made = Made(file.getvalue().replace(b"MMMMMMMMMMMMMM", written[:14].ljust(14)))
    expected = written[:14].decode(encoding, "ignore").strip()
    assert str(made.read("report").PatientName) == expected


@pytest.mark.parametrize(
    ("declared", "encoding", "read", "noted"),
    [
        ("ISO 2022 IR 87", "utf-8", "Müller^J", False),
        ("ISO_IR 999", "utf-8", "Müller^J", False),
        ("UTF-8", "utf-8", "Müller^J", False),
        ("ISO_IR 100", "latin-1", "Müller^J", False),
        ("ISO_IR 192", "latin-1", None, True),
        ("ISO 2022 IR 87", "latin-1", None, True),
    ],
)
def test_text_in_another_character_set_than_is_declared(declared, encoding, read, noted):
    body = source(SpecificCharacterSet="ISO_IR 192", PatientName="MMMMMMMMMM")
    padded = declared.encode() + b" " * (len(declared) % 2)
    body = body.replace(b"CS\x0a\0ISO_IR 192", b"CS" + bytes([len(padded), 0]) + padded)
    made = Made(body.replace(b"MMMMMMMMMM", "Müller^J".encode(encoding).ljust(10)))
    assert ("rewritten_patients_name" in made.record.dicom_notes) == noted
    assert read is None or str(made.read("report").PatientName) == read


def test_missing_uids_differ_by_what_they_are_of():
    assert valid_uid("", "instance", "a") != valid_uid("", "instance", "b")
    assert len(valid_uid("", "instance", "a")) <= 64


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
