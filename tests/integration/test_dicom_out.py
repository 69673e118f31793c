"""DICOM objects of images that real models were run on, judged by dicom3tools' dciodvfy."""

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydicom import dcmread

from dermbatch.errors import BadInput
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, VL_PHOTOGRAPHIC, dicom
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from tests.needed import program
from workers.process.journey import process

DATA = Path(__file__).parents[2].parent / "shared" / "data"
MODELS = {stage: ModelChoice(name=f"{stage}_tiny") for stage in Stage} | {
    Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")
}
DERMOSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.7"
TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"


@pytest.fixture(scope="module")
def dciodvfy():
    judge = program("dciodvfy", "dicom3tools")

    def errors(path):
        ended = subprocess.run([judge, path], check=False, capture_output=True, text=True, errors="replace")
        lines = (ended.stdout + ended.stderr).splitlines()
        assert lines, "dciodvfy says at least what kind of object it is"
        return [line for line in lines if line.startswith("Error")]

    return errors


@pytest.fixture
def objects(empty_store, client):
    """Runs an image with all stages; gives its DICOM objects by kind."""
    store = ObjectStore(empty_store)

    def made(body, frame=None):
        store.put("a", body, "application/dicom", bucket=store.incoming_bucket)
        job = ImageJob(
            batch="b",
            index=0,
            name="a",
            source="s3://incoming/a",
            order=Order(models=MODELS, dicom=True),
            frame=frame,
        )
        servers = {"store": store, "client": client, "limits": WorkerSettings()}
        record = process(job, **servers, attempt=1, worker="w", alive=lambda: None)
        assert record.no_dicom is None
        return {kind: store.get(store.bucket, key) for kind, key in record.dicom.items()}

    return made


def judged(found, folder, dciodvfy):
    """Errors by kind, where there are any."""
    errors = {}
    for kind, body in found.items():
        path = folder / f"{kind}.dcm"
        path.write_bytes(body)
        if complaints := dciodvfy(path):
            errors[kind] = complaints
    return errors


@pytest.mark.parametrize(
    ("sop_class", "jpeg"),
    [(VL_PHOTOGRAPHIC, True), (SECONDARY_CAPTURE, False), (DERMOSCOPIC, True), (TRUE_COLOUR, False)],
)
def test_objects_of_every_kind_of_source_are_right(objects, dciodvfy, tmp_path, sop_class, jpeg):
    found = objects(dicom(phantom(5, height=240, width=320), identity=5, sop_class=sop_class, jpeg=jpeg))
    assert set(found) == {"segmentation", "report", "enhanced"}
    assert judged(found, tmp_path, dciodvfy) == {}
    referenced = dcmread(BytesIO(found["enhanced"])).SourceImageSequence[0]
    assert referenced.ReferencedSOPClassUID == sop_class


def test_a_wrong_object_is_noticed(objects, dciodvfy, tmp_path):
    found = objects(dicom(phantom(5, height=240, width=320), identity=5))
    dataset = dcmread(BytesIO(found["segmentation"]))
    del dataset.SegmentSequence
    file = BytesIO()
    dataset.save_as(file)
    assert judged({"segmentation": file.getvalue()}, tmp_path, dciodvfy)


def test_a_frame_of_reference_and_a_header_of_strangers_give_right_objects(objects, dciodvfy, tmp_path):
    dataset = dcmread(BytesIO(dicom(phantom(6, height=240, width=320), identity=6)))
    dataset.FrameOfReferenceUID = "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SOPInstanceUID = '"1.2.840.99"', "no UID at all"
    dataset.PatientName, dataset.PatientSex, dataset.StudyDate = "no caret", "female", "2020-05-20"
    del dataset.SeriesInstanceUID, dataset.PixelSpacing
    file = BytesIO()
    dataset.save_as(file)
    found = objects(file.getvalue())
    assert judged(found, tmp_path, dciodvfy) == {}
    assert dcmread(BytesIO(found["segmentation"])).FrameOfReferenceUID == "1.2.3.4"


def test_objects_of_a_frame_of_several_are_right(objects, dciodvfy, tmp_path):
    dataset = dcmread(
        BytesIO(dicom(phantom(6, height=240, width=320), identity=6, sop_class=TRUE_COLOUR, jpeg=False))
    )
    dataset.NumberOfFrames = 3
    dataset.PixelData = dataset.PixelData * 3
    file = BytesIO()
    dataset.save_as(file)
    found = objects(file.getvalue(), frame=2)
    assert set(found) == {"segmentation", "report", "enhanced"}
    assert judged(found, tmp_path, dciodvfy) == {}


@pytest.mark.parametrize("dates", ["remove", "shift"])
def test_objects_of_de_identified_copies_are_right(objects, dciodvfy, tmp_path, dates):
    profile = Profile(name="test", dates=dates, burned_in_text="flag")
    pseudonyms = Pseudonyms(SecretStr("a salt for tests, and long enough"))
    source = dicom(phantom(5, height=240, width=320), identity=5)
    made = deidentify(source, profile, pseudonyms, max_pixels=10**8)
    found = objects(made.data)
    assert set(found) == {"segmentation", "report", "enhanced"}
    assert judged(found, tmp_path, dciodvfy) == {}
    for body in found.values():
        assert dcmread(BytesIO(body)).PatientID == made.patient
        assert b"PHANTOM" not in body
        assert b"20240101" not in body


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real images in {DATA}")
@pytest.mark.parametrize("folder", ["dicom_isic2020", "dicom_testfiles"])
def test_objects_of_real_dicom_files_are_right(objects, dciodvfy, tmp_path, folder):
    refused, errors, seen = set(), {}, 0
    for path in sorted((DATA / folder).glob("*.dcm")):
        try:
            found = objects(path.read_bytes())
        except BadInput:
            refused.add(path.name)
            continue
        seen += 1
        assert "report" in found
        if complaints := judged(found, tmp_path, dciodvfy):
            errors[path.name] = complaints
    assert errors == {}
    assert refused == (
        set() if folder == "dicom_isic2020" else {"SC_rgb_small_odd_jpeg.dcm", "examples_ybr_color.dcm"}
    )
    assert seen + len(refused) == 15
