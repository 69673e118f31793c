"""An image at the desk, over real servers: its files, its person's others, its DICOM objects; one that is gone."""

import io
import json
import zipfile
from datetime import timedelta

import cv2
import numpy as np
import pydicom
from desk_server import pictured, write_batch, write_table
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from dermbatch import layout
from dermbatch.records.asked import Deidentification
from tests.outcome_samples import (
    batch_of,
    entry_of,
    failure_of,
    mask_png,
    result_of,
    write_manifest,
    write_record,
)


def test_an_image_has_its_record_files_layers_and_each_look_is_noted(server, ada, store, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (600, 900, 3), np.uint8)
    write_batch(store, "desk-pictures", [pictured(store, "desk-pictures", 0, pixels)], tmp_path)
    here = "/v1/batches/desk-pictures/images/0"
    image = ada.get(here).json()
    assert image["layers"] == ["original", "purified", "enhanced", "occlusions"]
    assert "preview_jpeg" not in image["result"]
    assert ada.get(f"{here}/preview.jpg").content[:2] == b"\xff\xd8"
    mask = ada.get(f"{here}/files/mask.png")
    part = ada.get(f"{here}/files/mask.png", headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, mask.content[1:4])
    assert ada.get(f"{here}/files/saliency.png").status_code == 404
    assert ada.get(f"{here}/outline").json() == [[[225, 150], [225, 299], [449, 299], [449, 150]]]
    layer = ada.get(f"{here}/layers/original").json()
    assert (layer["levels"], layer["box"]) == ([[900, 600], [450, 300]], [0, 0, 900, 600])
    tile = ada.get(f"{here}/layers/original/0/1-1")
    shown = cv2.cvtColor(cv2.imdecode(np.frombuffer(tile.content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(shown, pixels[512:, 512:])
    covered = cv2.imdecode(
        np.frombuffer(ada.get(f"{here}/layers/occlusions/0/0-0").content, np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert np.array_equal(covered[..., 3] > 0, np.arange(512)[:, None].repeat(512, 1) < 5)
    assert ada.get(f"{here}/layers/original/0/7-7").status_code == 404
    nonsense = ada.get(f"{here}/layers/nonsense")
    assert (nonsense.status_code, nonsense.json()["reason"]) == (404, "no_layer")
    looks = [json.loads(line) for line in server.looks().splitlines()]
    assert ("s3://incoming/desk-pictures/0", "ada") in [(look["object"], look["user"]) for look in looks]
    assert ada.get("/image/desk-pictures/0").status_code == 200


def test_an_image_that_vanished_or_is_none_says_so(ada, store, tmp_path):
    pixels = np.full((300, 300, 3), 77, np.uint8)
    records = [pictured(store, "desk-gone", n, pixels + np.uint8(n)) for n in range(3)]
    torn = pictured(store, "desk-gone", 3, pixels, body=b"\xff\xd8\xff\xe0 no picture at all")
    write_batch(store, "desk-gone", [*records, torn, failure_of("desk-gone", 4)], tmp_path)
    store.delete("desk-gone/0", bucket=store.incoming_bucket)
    store.put("desk-gone/1", b"another file", "image/png", bucket=store.incoming_bucket)
    store.delete(records[2].stages["purify"].artifacts["purified.png"])
    answers = {
        n: ada.get(f"/v1/batches/desk-gone/images/{n}/layers/{layer}")
        for n, layer in ((0, "original"), (1, "original"), (2, "purified"), (3, "original"), (4, "original"))
    }
    assert {n: (answer.status_code, answer.json()["reason"]) for n, answer in answers.items()} == {
        0: (410, "source_gone"),
        1: (410, "source_replaced"),
        2: (404, "object_not_found"),
        3: (422, "truncated"),
        4: (404, "no_result"),
    }
    assert ada.get("/v1/batches/desk-gone/images/4").json()["failure"]["reason"] == "truncated"
    store.delete(layout.result("desk-gone", 2))
    assert ada.get("/v1/batches/desk-gone/images/2").status_code == 404


def test_an_image_that_was_processed_again_meanwhile_is_shown_as_it_is_now(ada, store, tmp_path):
    record = result_of("desk-again", 0)
    store.put(record.stages["segment"].artifacts["mask.png"], mask_png(9), "image/png")
    write_batch(store, "desk-again", [record], tmp_path)
    here = "/v1/batches/desk-again/images/0"
    first, etag = ada.get(f"{here}/outline"), ada.get(here).headers["etag"]
    newer = result_of("desk-again", 0, versions={"segment": "2"}, probabilities=(0.8, 0.1, 0.1))
    store.put(newer.stages["segment"].artifacts["mask.png"], mask_png(20), "image/png")
    write_batch(store, "desk-again", [newer], tmp_path)
    second = ada.get(f"{here}/outline", headers={"if-none-match": first.headers["etag"]})
    assert second.status_code == 200
    assert second.json() != first.json()
    assert (
        ada.get(here, headers={"if-none-match": etag}).json()["result"]["stages"]["segment"]["model"]["version"]
        == "2"
    )
    asked = {"batch": "desk-again", "q": "class:melanoma"}
    assert ada.get("/v1/results", params=asked).json()["total"] == 1


def test_a_batch_that_was_deleted_while_somebody_looks_is_one_clear_answer(ada, store, tmp_path):
    pixels = np.full((40, 60, 3), 120, np.uint8)
    write_batch(store, "desk-deleted", [pictured(store, "desk-deleted", 0, pixels)], tmp_path)
    asked = [
        "/v1/results?batch=desk-deleted",
        "/v1/results/order?batch=desk-deleted",
        "/v1/results/rows?batch=desk-deleted&ids=0:0",
        "/v1/results/facets?batch=desk-deleted",
        "/v1/exports/csv?batch=desk-deleted",
        "/v1/batches/desk-deleted/images/0",
        "/v1/batches/desk-deleted/images/0/preview.jpg",
        "/v1/batches/desk-deleted/images/0/others",
        "/v1/batches/desk-deleted/comparison",
        "/gallery?batch=desk-deleted",
    ]
    assert {ada.get(path).status_code for path in asked if "comparison" not in path} == {200}
    store.delete_prefix(store.bucket, layout.batch_prefix("desk-deleted"))
    for path in asked:
        answer = ada.get(path)
        assert answer.status_code == 404, path
        assert "desk-deleted" in answer.json()["detail"]


def test_times_of_a_clock_that_stepped_back_are_shown_as_they_are(ada, store, tmp_path):
    record = result_of("desk-clock", 0)
    record = record.model_copy(update={"finished": record.started - timedelta(days=1)})
    write_batch(store, "desk-clock", [record], tmp_path)
    assert ada.get("/v1/batches/desk-clock/images/0").json()["result"]["finished"].startswith("2026-03-01")
    asked = {"batch": "desk-clock", "q": "finished:[2026-03-01 TO 2026-03-02]", "sort": "-finished"}
    assert ada.get("/v1/results", params=asked).json()["total"] == 1
    assert ada.get("/image/desk-clock/0").status_code == 200


def test_names_of_every_script_and_direction_are_found_and_shown(ada, store, tmp_path):
    names = [
        "皮膚/母斑 1.jpg",
        "صورة/٣.jpg",
        "שומה.jpg",
        "a\u202egpj.exe.jpg",
        "कोशिका é ́.jpg",
        "<b>\"'&.jpg",
        "😀.jpg",
    ]
    records = [result_of("desk-names", n).model_copy(update={"name": name}) for n, name in enumerate(names)]
    write_batch(store, "desk-names", records, tmp_path)
    rows = ada.get("/v1/results?batch=desk-names").json()["results"]
    assert [row["name"] for row in rows] == names
    for n, part in enumerate(["母斑", "٣", "שומה", "gpj", "कोशिका", "<b>", "😀"]):
        found = ada.get("/v1/results", params={"batch": "desk-names", "q": f'"{part}"'}).json()["results"]
        assert [row["index"] for row in found] == [n], part
    assert "<b>" not in ada.get("/image/desk-names/5").text
    assert ada.get("/v1/exports/csv?batch=desk-names").content.decode().count("母斑") == 1


PERSON, OTHER = f"P-{'0a' * 10}", f"P-{'0b' * 10}"


def photographed(day):
    """The beginning of a DICOM file of a picture that was taken on this day."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.4", "2.25.9"
    header.StudyDate, header.file_meta = day, FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    body = io.BytesIO()
    pydicom.dcmwrite(body, header, enforce_file_format=True)
    return body.getvalue()


def deidentified_batch(store, name, images, salt):
    """Results of these images: whose they are, and when they were taken; none where the header does not say."""
    profile = Deidentification(
        profile="p", dates="shift", uids="replace", burned_in_text="flag", reidentification=False, salt=salt
    )
    batch = batch_of(name, len(images), deidentified=profile)
    write_manifest(store, batch, [entry_of(index) for index in range(batch.images)])
    for index, (whose, day) in enumerate(images):
        record = result_of(name, index).model_copy(update={"name": f"{whose}/{index}.dcm"})
        uri = f"s3://{store.incoming_bucket}/{name}/{index}"
        source = record.source.model_copy(update={"uri": uri})
        store.put(f"{name}/{index}", photographed(day), "application/dicom", bucket=store.incoming_bucket)
        write_record(store, record.model_copy(update={"source": source}))
    write_table(store, batch)


def test_the_same_pseudonyms_other_pictures_come_by_time(ada, store):
    days = ("20260105", "20250301", "", "20260301")
    deidentified_batch(store, "desk-people", [*((PERSON, day) for day in days), (OTHER, "20250101")], "one")
    deidentified_batch(store, "desk-people-2", [(PERSON, "20250901")], "one")
    deidentified_batch(store, "desk-people-3", [(PERSON, "20250902")], "another")
    others = ada.get("/v1/batches/desk-people/images/0/others").json()
    assert others["pseudonym"] == PERSON
    assert [(one["batch"], one["index"], one["taken"]) for one in others["pictures"]] == [
        ("desk-people", 1, "2025-03-01"),
        ("desk-people-2", 0, "2025-09-01"),
        ("desk-people", 3, "2026-03-01"),
        ("desk-people", 2, None),
    ]
    facets = ada.get("/v1/results/facets?batch=desk-people").json()
    assert facets["values"]["pseudonym"] == {PERSON: 4, OTHER: 1}
    page = ada.get("/v1/results", params={"batch": "desk-people", "q": f'pseudonym:"{OTHER}"'}).json()
    assert [one["index"] for one in page["results"]] == [4]
    store.delete("desk-people/1", bucket=store.incoming_bucket)
    gone = ada.get("/v1/batches/desk-people/images/0/others").json()["pictures"]
    assert {one["index"]: one["taken"] for one in gone if one["batch"] == "desk-people"}[1] is None


def test_images_that_say_not_whose_they_are_have_no_others(ada, monday):
    others = ada.get(f"/v1/batches/{monday}/images/0/others").json()
    assert others == {"pseudonym": None, "pictures": []}
    assert "pseudonym" not in ada.get(f"/v1/results/facets?batch={monday}").json()["columns"]


def dicom_report():
    """A small structured report."""
    meaning = Dataset()
    meaning.CodeValue, meaning.CodingSchemeDesignator, meaning.CodeMeaning = "1", "99TEST", "Diameter"
    unit = Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "mm", "UCUM", "millimeter"
    measured = Dataset()
    measured.NumericValue, measured.MeasurementUnitsCodeSequence = "5.5", [unit]
    item = Dataset()
    item.ValueType, item.ConceptNameCodeSequence, item.MeasuredValueSequence = "NUM", [meaning], [measured]
    report = Dataset()
    report.SOPClassUID, report.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.34", "2.25.3"
    report.StudyInstanceUID, report.SeriesInstanceUID, report.Modality = "2.25.1", "2.25.2", "SR"
    report.PatientID, report.ValueType, report.ContentSequence = "P-1", "CONTAINER", [item]
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    body = io.BytesIO()
    pydicom.dcmwrite(body, report, enforce_file_format=True)
    return body.getvalue()


def test_dicom_objects_are_found_and_retrieved_and_a_report_is_read(ada, store, tmp_path):
    key, body = layout.dicom("desk-dicom", 0, "report"), dicom_report()
    store.put(key, body, "application/dicom")
    record = result_of("desk-dicom", 0).model_copy(update={"dicom": {"report": key}})
    write_batch(store, "desk-dicom", [record], tmp_path)
    root = "/dicom-web/desk-dicom"
    (study,) = ada.get(f"{root}/studies", params={"PatientID": "P-1"}).json()
    assert study["0020000D"]["Value"] == ["2.25.1"]
    assert ada.get(f"{root}/studies?00100020=P-2").status_code == 204
    assert ada.get(f"{root}/studies?limit=x").status_code == 400
    assert ada.get(f"{root}/studies?no_attribute=x").json()["at"]["parameter"] == "no_attribute"
    assert ada.get(f"{root}/studies/2.25.1/series").json()[0]["00080060"]["Value"] == ["SR"]
    (found,) = ada.get(f"{root}/instances").json()
    assert found["00080018"]["Value"] == ["2.25.3"]
    one = f"{root}/studies/2.25.1/series/2.25.2/instances/2.25.3"
    assert ada.get(one, headers={"accept": "application/dicom"}).content == body
    many = ada.get(f"{root}/studies/2.25.1")
    assert body in many.content
    assert many.headers["content-type"].startswith('multipart/related; type="application/dicom"')
    assert ada.get(f"{one}/metadata").json()[0]["00100020"]["Value"] == ["P-1"]
    assert ada.get(f"{root}/studies/2.25.9").status_code == 404
    assert ada.get("/v1/batches/desk-dicom/images/0/dicom/report").content == body
    page = ada.get("/image/desk-dicom/0/report").text
    assert "Diameter" in page
    assert "5.5 mm" in page
    archive = zipfile.ZipFile(io.BytesIO(ada.get("/v1/exports/dicom?batch=desk-dicom").content))
    assert archive.read("desk-dicom/0-report.dcm") == body
    assert archive.namelist() == ["desk-dicom/0-report.dcm"]
    store.delete(key)
    archive = zipfile.ZipFile(io.BytesIO(ada.get("/v1/exports/dicom?batch=desk-dicom").content))
    assert archive.read("left-out.txt").startswith(b"desk-dicom/0-report.dcm: not in the object store")
