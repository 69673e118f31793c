"""Readers' decisions go back to a real PACS as new instances in the study, once however often they are sent."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from desk_server import Server, pictured, write_batch
from pacs import dciodvfy, orthanc
from pydicom import dcmread

from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.review.files import mask_of
from dermbatch.review.masks import runs
from dermbatch.store import ObjectStore

HEIGHT, WIDTH = 120, 160
PATH = "/v1/batches/rw/images/0/decisions"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    pacs = orthanc(tmp_path_factory.mktemp("orthanc"))
    pacs.start()
    yield pacs
    pacs.part.stop()


@pytest.fixture(scope="module")
def server(redis_settings, object_store_settings, tmp_path_factory, pacs):
    server = Server(redis_settings, object_store_settings, tmp_path_factory.mktemp("desk"))
    server.settings = server.settings.model_copy(update={"dicomweb": {"clinic": pacs.settings()}})
    server.app.state.desk = server.desk = replace(server.desk, settings=server.settings)
    with server:
        yield server


@pytest.fixture(scope="module")
def batch(object_store_settings, tmp_path_factory):
    store = ObjectStore(object_store_settings)
    shown = phantom(3, height=HEIGHT, width=WIDTH)
    record = pictured(store, "rw", 0, shown.image, body=dicom(shown, identity=3))
    source = record.source.model_copy(update={"media_type": "application/dicom"})
    plain = pictured(store, "rw", 1, shown.image)
    write_batch(store, "rw", [record.model_copy(update={"source": source}), plain], tmp_path_factory.mktemp("rw"))


def drawing():
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:90, 30:120] = 255
    mask[40:50, 60:70] = 0
    mask[45, 65] = mask[0, 0] = 255
    return mask


def decide(client, path=PATH, **fields):
    found = client.get(path).json()
    sent = {"version": found["next_version"], "stages": found["stages"], "shown": True, **fields}
    answer = client.post(path, json=sent)
    assert answer.status_code == 201, answer.text


def test_a_decision_is_sent_as_new_instances_once_and_noted(server, batch, pacs, tmp_path):
    region = {"height": HEIGHT, "width": WIDTH, "counts": [0, 5, HEIGHT * WIDTH - 5]}
    with server.client("ada") as ada, server.client("bo") as bo:
        decide(ada, diagnosis=["melanoma"], mask=runs(drawing()), features=[{"term": "streaks", "region": region}])
        assert bo.get(f"{PATH}/1/report.dcm", params={"reader": "ada"}).status_code == 404  # blind
        segmentation, report = (ada.get(f"{PATH}/1/{kind}.dcm").content for kind in ("segmentation", "report"))
        assert np.array_equal(mask_of(segmentation, HEIGHT, WIDTH), drawing())
        assert len(dcmread(BytesIO(segmentation)).SegmentSequence) == 2  # with the streaks
        again = ada.post(f"{PATH.removesuffix('/decisions')}/masks", content=segmentation)
        assert again.json()["counts"] == runs(drawing())
        for name, body in (("seg", segmentation), ("sr", report)):
            (tmp_path / name).write_bytes(body)
            assert dciodvfy(tmp_path / name) == []
        pacs.forget()
        for _ in range(2):
            sent = ada.post(f"{PATH}/1/send", json={"to": "clinic"})
            assert sent.status_code == 200, sent.text
            assert set(sent.json()["kinds"]) == {"segmentation", "report"}
        study = dcmread(BytesIO(segmentation)).StudyInstanceUID
        found = [dcmread(BytesIO(body)) for body in pacs.retrieved(study)]
        assert len(found) == len(pacs.instances()) == 2
        assert {one.SeriesDescription for one in found} == {
            "Dermbatch lesion mask, reviewed",
            "Dermbatch report, reviewed",
        }
        (verified,) = (one for one in found if "VerificationFlag" in one)
        assert verified.VerificationFlag == "VERIFIED"
        assert str(verified.VerifyingObserverSequence[0].VerifyingObserverName) == "ada^"
        decide(bo, diagnosis=["nevus"])
        assert bo.get(f"{PATH}/1/report.dcm", params={"reader": "ada"}).content == report
        assert bo.get(f"{PATH}/1/segmentation.dcm").status_code == 404  # nothing was drawn
    lines = server.looks()
    assert lines.count('"to":"pacs:clinic"') + lines.count('"to": "pacs:clinic"') == 4
    assert "reviewed/rw/000000/0/" in lines
    assert "reviews/rw/000000/0/" in lines  # every decision, too


def test_what_cannot_be_sent_is_said(server, batch):
    with server.client("eve") as eve:
        other = PATH.replace("/0/", "/1/")
        decide(eve, other, mask=runs(drawing()))
        assert eve.get(f"{other}/1/report.dcm").json()["reason"] == "not_dicom"
        assert eve.post(f"{other}/1/send", json={"to": "nowhere"}).json()["reason"] == "usage"
        assert eve.post(f"{other}/2/send", json={"to": "clinic"}).status_code == 404
        decide(eve, kind="return", to="ada", comment="the border")
        assert eve.get(f"{PATH}/1/report.dcm").json()["reason"] == "not_a_reading"
