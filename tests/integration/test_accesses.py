"""Which lines an image leaves in the audit log, from intake to delivery, on real servers."""

import json
from io import BytesIO

import pytest
from pydicom import dcmread

from dermbatch.audit import Audit
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import dicom
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import AuditSettings, Settings, WorkerSettings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.uploading import entered
from workers.process.journey import process
from workers.triton.client import TritonClient

MODELS = {stage: ModelChoice(name=f"{stage}_tiny") for stage in Stage} | {
    Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")
}


@pytest.fixture
def audit(tmp_path):
    audit = Audit(AuditSettings(folder=str(tmp_path / "audit")), "test")
    yield audit
    audit.close()


@pytest.fixture
def store(empty_store, audit):
    store = ObjectStore(empty_store, audit)
    for bucket in ("hospital", "ward"):
        store.create_bucket(bucket)
        store.delete_prefix(bucket, "")
    store.put("in/Mustermann.dcm", image(), "application/dicom", bucket="hospital")
    return store


@pytest.fixture
def lines(tmp_path, store):
    """New lines: action, object, and where to or how it ended."""
    seen = 0

    def lines():
        nonlocal seen
        (path,) = (tmp_path / "audit").iterdir()
        found = [json.loads(text) for text in path.read_text().splitlines()]
        fresh, seen = found[seen:], len(found)
        return [
            (line["action"], line["object"], *(line[word] for word in ("to", "outcome") if word in line))
            for line in fresh
        ]

    lines()
    return lines


def image():
    return dicom(phantom(7, height=240, width=320), identity=7)


def test_an_image_on_its_way(store, lines, digested_triton):
    client = TritonClient(digested_triton.settings)
    (info,) = store.list("hospital", "in/")
    job = ImageJob(
        batch="b",
        index=0,
        name="IM1",
        source="s3://hospital/in/Mustermann.dcm",
        order=Order(models=MODELS, dicom=True, output="s3://ward/out"),
        size=info.size,
        etag=info.etag,
    )
    words = {"store": store, "client": client, "limits": WorkerSettings()}
    record = process(job, **words, attempt=1, worker="w", alive=lambda: None)
    found = lines()
    client.close()
    pictures = {
        f"s3://dermbatch/{key}"
        for stage in record.stages.values()
        for name, key in stage.artifacts.items()
        if name not in stage.inline
    }
    objects = {f"s3://dermbatch/{key}" for key in record.dicom.values()}
    assert next(line for line in found if line[0] == "read") == ("read", job.source)
    known = {line[1] for line in found if "/known/" in line[1]}
    assert {line[1] for line in found if line[0] == "write"} == (
        pictures | objects | known | {"s3://ward/out/IM1/result.json"}
    )
    assert {line[1] for line in found if line[0] == "copy"} == pictures | objects
    assert {line[2].rpartition("/")[0] for line in found if line[0] == "copy"} == {"s3://ward/out/IM1"}
    assert len(found) == len(set(found))


@pytest.mark.parametrize("hidden", [False, True])
def test_originals_that_are_taken_in(store, lines, audit, tmp_path, hidden):
    (tmp_path / "Mustermann.dcm").write_bytes(image())
    inputs = [str(tmp_path / "Mustermann.dcm"), "s3://hospital/in/"]
    intake = Intake(
        Settings(), store, in_place=False, audit=audit, pseudonym=(lambda uri: f"P{len(uri)}") if hidden else None
    )
    entries = [entry for _, entry in entered("b", 0, iter(intake.walk(inputs)), store) if entry]
    assert len(entries) == 2
    found = lines()
    read = {line[1] for line in found if line[0] == "read"}
    originals = {inputs[0], "s3://hospital/in/Mustermann.dcm"}
    assert read == ({f"pseudonym:P{len(uri)}" for uri in originals} if hidden else originals)
    assert sorted(line for line in found if line[0] == "write") == [
        ("write", "s3://incoming/b/0"),
        ("write", "s3://incoming/b/1"),
    ]
    assert dcmread(BytesIO(store.get("incoming", "b/1"))).PatientID == "PHANTOM-0007"


def test_what_is_deleted(store, lines):
    store.delete("in/Mustermann.dcm", bucket="hospital")
    store.delete_prefix("hospital", "in/")
    store.delete("open/b.json")
    assert lines() == [("delete", "s3://hospital/in/Mustermann.dcm"), ("delete", "s3://hospital/in/*")]
