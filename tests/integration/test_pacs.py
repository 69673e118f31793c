"""From a PACS into a bucket, through the pipeline, and back into the PACS: all of it real."""

import re
import time
import urllib.request
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from orchestra import Orchestra
from pacs import USER, dciodvfy, orthanc
from pydantic import SecretStr
from pydicom import dcmread

from dermbatch.handover.dicom import objects
from dermbatch.handover.dicom.objects import dicom_objects
from dermbatch.handover.pacs import stow
from dermbatch.handover.pacs.stow import Destinations
from dermbatch.ledger import Ledger
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, VL_PHOTOGRAPHIC, dicom
from dermbatch.records.asked import ModelChoice, Order
from dermbatch.records.outcome import FailureRecord, ResultRecord
from dermbatch.records.signature import signed
from dermbatch.settings import LedgerSettings, Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from orchestrator.steering.controls import begin
from orchestrator.steering.replay import retry
from orchestrator.watching.rules.rules import Rule, RuleBook
from orchestrator.watching.watcher import Watcher
from tests.waiting import wait_for
from workers.process.drain import Drain
from workers.process.lease import LeaseKeeper
from workers.process.task import process_image
from workers.process.workplace import Workplace

DATA = Path(__file__).parents[2].parent / "shared" / "data"
BUCKET = "hospital"
MODELS = {stage: ModelChoice(name=f"{stage}_tiny") for stage in Stage} | {
    Stage.SEGMENT: ModelChoice(name="segment_tiny", version="1")
}
LEDGER = LedgerSettings(first_pause=0.05, longest_pause=0.2, max_transient=1000, window_per_slot=8)
KINDS = ("segmentation", "report", "enhanced")


@pytest.fixture(scope="module")
def orthanc_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("orthanc")
    pacs = orthanc(folder)
    pacs.start()
    try:
        yield pacs
    finally:
        pacs.part.stop()


@pytest.fixture
def pacs(orthanc_runs):
    """An Orthanc that holds nothing."""
    if not orthanc_runs.part.running:
        orthanc_runs.start()
    orthanc_runs.forget()
    return orthanc_runs


@pytest.fixture
def inferences(digested_triton):
    """Requests that Triton has answered."""

    def asked():
        with urllib.request.urlopen(f"http://127.0.0.1:{digested_triton.ports.metrics}/metrics") as answer:
            found = re.findall(r"nv_inference_request_success\{[^}]*\} (\d+)", answer.read().decode())
        return sum(map(int, found))

    return asked


class Hospital:
    """Dermbatch with one worker in this process, a bucket for exports, and the settings that lead to the PACS."""

    def __init__(self, redis_settings, store_settings, client, pacs):
        self.settings = Settings(redis=redis_settings, store=store_settings, ledger=LEDGER)
        self.orchestra = Orchestra(redis_settings, store_settings, LEDGER)
        self.store, self.pacs = self.orchestra.store, pacs
        self.store.create_bucket(BUCKET)
        self.store.delete_prefix(BUCKET, "")
        ledger, drain = Ledger(redis_settings, LEDGER), Drain(grace=30)
        keeper = LeaseKeeper(ledger, "w", LEDGER.heartbeat, drain)
        keeper.start()
        known = Destinations({"main": pacs.settings()})
        self.place = Workplace(
            self.settings, ObjectStore(store_settings), ledger, client, keeper, drain, "w", destinations=known
        )

    def put(self, key, body):
        self.store.put(f"exports/{key}", body, "application/octet-stream", bucket=BUCKET)

    def submit(self, name="b", **changes):
        """As ``dermbatch submit s3://hospital/exports/ --dicom --send-to main``."""
        order = Order(models=MODELS, **{"dicom": True, "send_to": "main", **changes})
        walk = Intake(self.settings, self.store, in_place=True).walk([f"s3://{BUCKET}/exports/"])
        batch = plan(name, order, walk, self.store)
        begin(self.store, self.orchestra.ledger, batch)
        return batch

    def watch(self):
        """As ``dermbatch watch --once`` with a rule for the bucket; the batch that takes images in."""
        rule = Rule(name="pacs", prefix=f"s3://{BUCKET}/exports", models=MODELS, send_to="main")
        assert Watcher(self.settings, RuleBook([rule]), self.store, self.orchestra.ledger).run_once()
        (state,) = self.orchestra.ledger.batches.all()
        return state

    def turn(self):
        """A round of the orchestrator and all that there is for the worker."""
        self.orchestra.dispatcher.repair()
        self.orchestra.dispatcher.feed()
        jobs = self.orchestra.take("live") + self.orchestra.take("bulk")
        for job in jobs:
            process_image(self.place, signed(job, self.settings.redis.signing_key))
        return len(jobs)

    def work_off(self, name="b"):
        def ended():
            return self.orchestra.state(name).finished or (self.turn() and None)

        wait_for(ended, 60, "the batch's end")
        self.orchestra.close()

    def records(self, name="b"):
        found = self.store.list(self.store.bucket, f"batches/{name}/results/")
        return [ResultRecord.model_validate_json(self.store.get(self.store.bucket, i.key)) for i in found]

    def failures(self, name="b"):
        found = self.store.list(self.store.bucket, f"batches/{name}/failed/")
        return [FailureRecord.model_validate_json(self.store.get(self.store.bucket, i.key)) for i in found]

    def written(self, record):
        """The DICOM objects that the bucket holds of an image."""
        return {kind: self.store.get(self.store.bucket, key) for kind, key in record.dicom.items()}

    def end(self):
        self.place.keeper.stop()
        self.place.destinations.close()
        self.orchestra.end()


@pytest.fixture
def hospital(empty_redis, empty_store, client, pacs, monkeypatch):
    monkeypatch.setattr(stow, "_REST", 0.2)
    hospital = Hospital(empty_redis, empty_store, client, pacs)
    yield hospital
    hospital.end()


def image(number, *, study=None, sop_class=VL_PHOTOGRAPHIC, jpeg=True):
    body = dicom(phantom(number, height=240, width=320), identity=number, sop_class=sop_class, jpeg=jpeg)
    if study is None:
        return body
    dataset = dcmread(BytesIO(body))
    first = dcmread(BytesIO(dicom(phantom(study, height=240, width=320), identity=study)))
    dataset.StudyInstanceUID, dataset.PatientID = first.StudyInstanceUID, first.PatientID
    return saved(dataset)


def saved(dataset):
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def uid(body):
    return dcmread(BytesIO(body), stop_before_pixels=True).SOPInstanceUID


def same(ours, theirs):
    """Whether two files hold the same dataset; a PACS may rewrite the file meta information."""
    return dcmread(BytesIO(ours)) == dcmread(BytesIO(theirs))


def given_back(hospital, records):
    """Holds that the PACS gives back each object of each record as the bucket has it; how many they are."""
    ours = [body for record in records for body in hospital.written(record).values()]
    studies = {dcmread(BytesIO(body), stop_before_pixels=True).StudyInstanceUID for body in ours}
    theirs = {uid(body): body for study in studies for body in hospital.pacs.retrieved(study)}
    for body in ours:
        assert same(body, theirs[uid(body)])
    return len(ours)


def test_from_the_pacs_through_the_bucket_and_back(hospital, pacs, tmp_path):
    bodies = [image(1), image(2, study=1), image(3, sop_class=SECONDARY_CAPTURE, jpeg=False)]
    for number, body in enumerate(bodies):
        (tmp_path / f"{number}.dcm").write_bytes(body)
    pacs.store(*tmp_path.glob("*.dcm"))
    first, second = sorted(pacs.json("/studies"), key=lambda s: len(pacs.json(f"/studies/{s}")["Series"]))[::-1]
    media = pacs.archive(first, "media")
    assert "DICOMDIR" in zipfile.ZipFile(BytesIO(media)).namelist()
    hospital.put("first.zip", media)
    for instance in pacs.json(f"/studies/{second}/instances"):
        hospital.put("loose/IM0001", pacs.ask(f"/instances/{instance['ID']}/file", accept="*/*")[1])
    batch = hospital.submit()
    assert batch.images == 3
    hospital.work_off()
    records = hospital.records()
    assert [record.sent.to for record in records] == ["main"] * 3
    assert [set(record.sent.kinds) for record in records] == [set(KINDS)] * 3
    assert len(pacs.instances()) == 3 + 9
    for body in bodies:
        source = dcmread(BytesIO(body), stop_before_pixels=True)
        (study,) = pacs.studies(StudyInstanceUID=source.StudyInstanceUID)
        assert set(study["00080061"]["Value"]) == {source.Modality, "SEG", "SR", "OT"}
        assert study["00100020"]["Value"] == [source.PatientID]
        masks = pacs.found(source.StudyInstanceUID, Modality="SEG")
        assert len(masks) == (1 if source.StudyInstanceUID == dcmread(BytesIO(bodies[2])).StudyInstanceUID else 2)
    assert given_back(hospital, records) == 9


def test_sent_again_by_another_batch_they_are_there_once(hospital, pacs, inferences):
    hospital.put("a", image(4))
    hospital.submit()
    hospital.work_off()
    before = inferences()
    hospital.submit("again")
    hospital.work_off("again")
    assert inferences() == before
    assert [record.sent.kinds for record in hospital.records("again")] == [KINDS]
    assert len(pacs.instances()) == 3


def test_while_the_pacs_is_away_images_wait_and_nothing_is_computed_twice(hospital, pacs, inferences):
    for number in range(4):
        hospital.put(f"{number}", image(10 + number))
    hospital.submit()
    hospital.turn()
    sent = len(hospital.records())
    assert sent
    pacs.part.stop()
    for number in range(4, 8):
        hospital.put(f"{number}", image(10 + number))
    hospital.submit("c")

    def wait_too():
        hospital.turn()
        return hospital.orchestra.ledger.snapshot().states["waiting"] >= 4

    wait_for(wait_too, 60)
    computed = inferences()
    for _ in range(5):
        time.sleep(0.1)
        hospital.turn()
    assert (hospital.failures("c"), hospital.failures("b"), len(hospital.records("b"))) == ([], [], sent)
    pacs.start()
    hospital.work_off("b")
    hospital.work_off("c")
    assert inferences() == computed
    records = hospital.records("b") + hospital.records("c")
    assert all(record.sent for record in records)
    assert max(record.attempt for record in records) > 1
    assert len(pacs.instances()) == 8 * 3
    assert given_back(hospital, records) == len(records) * 3


def test_a_wrong_password_is_a_clear_failure_that_can_be_replayed(hospital, pacs, inferences):
    hospital.put("a", image(20))
    right = hospital.place.destinations
    wrong = Destinations({"main": pacs.settings(password=SecretStr("not the password"))})
    hospital.place.destinations = wrong
    hospital.submit()
    hospital.work_off()
    (failure,) = hospital.failures()
    assert (failure.reason, failure.permanent, failure.attempts) == ("pacs_denied", True, 1)
    assert "'main'" in failure.message
    assert not any(word in failure.message for word in ("password\n", "not the", USER, "127.0.0.1"))
    wrong.close()
    hospital.place.destinations = right
    before = inferences()
    assert retry(hospital.store, hospital.orchestra.ledger, "b", "pacs_denied") == 1
    hospital.work_off()
    assert (hospital.failures(), inferences()) == ([], before)
    assert len(pacs.instances()) == given_back(hospital, hospital.records()) == 3


def test_what_the_pacs_does_not_take_is_a_clear_failure(hospital, pacs, monkeypatch):
    def without_study(*words, **more):
        made = dicom_objects(*words, **more)
        report = dcmread(BytesIO(made["report"]))
        del report.StudyInstanceUID
        return {**made, "report": saved(report)}

    monkeypatch.setattr(objects, "dicom_objects", without_study)
    hospital.put("a", image(21))
    hospital.submit()
    hospital.work_off()
    (failure,) = hospital.failures()
    assert (failure.reason, failure.permanent) == ("pacs_refused", True)
    assert "did not take: report (Failure Reason C000)" in failure.message
    monkeypatch.undo()
    assert len(pacs.instances()) == 2
    assert retry(hospital.store, hospital.orchestra.ledger, "b") == 1
    hospital.work_off()
    assert len(pacs.instances()) == given_back(hospital, hospital.records()) == 3


def test_a_pacs_that_the_worker_does_not_know(hospital):
    hospital.put("a", image(22))
    hospital.submit(send_to="elsewhere")
    hospital.work_off()
    (failure,) = hospital.failures()
    assert failure.reason == "pacs_unknown"
    assert "DERMBATCH_DICOMWEB__ELSEWHERE__URL" in failure.message


def test_an_image_that_is_no_dicom_is_not_sent(hospital, pacs):
    from dermbatch.images import png

    hospital.put("a.png", png.encode(phantom(3, height=240, width=320).image))
    hospital.submit()
    hospital.work_off()
    (record,) = hospital.records()
    assert (record.sent, record.no_dicom) == (None, "not_dicom")
    assert pacs.instances() == []


@pytest.mark.shared_data
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs the real images in {DATA}")
def test_real_files_as_dicomdir_zip_and_loose_through_watching_and_back(hospital, pacs, tmp_path):
    files = sorted(path for name in ("dicom_isic2020", "dicom_testfiles") for path in (DATA / name).glob("*.dcm"))
    assert len(files) == 30
    taken = [(path, found) for path in files[::3] if (found := pacs.take(path)) is not None]
    with_directory = pacs.media([found for _, found in taken])
    pacs.forget()
    in_directory = [path for path, _ in taken]
    loose = [path for path in files[1::3] if path not in in_directory]
    packed = [path for path in files if path not in {*in_directory, *loose}]
    assert len(in_directory) >= 8
    with zipfile.ZipFile(BytesIO(with_directory)) as media:
        for name in media.namelist():  # as a folder of the bucket, DICOMDIR and all
            hospital.put(f"media/{name}", media.read(name))
    zipped = BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for number, path in enumerate(packed):
            archive.write(path, f"{number:03d}")
    hospital.put("archive.zip", zipped.getvalue())
    for number, path in enumerate(loose):
        hospital.put(f"loose/IM{number:04d}", path.read_bytes())
    batch = hospital.watch()
    assert (batch.images, batch.growing) == (30, True)
    while hospital.turn() or hospital.orchestra.ledger.snapshot().states["waiting"]:
        pass
    records, failures = hospital.records(batch.name), hospital.failures(batch.name)
    assert len(records) == 28, [(failure.reason, failure.message) for failure in failures]
    assert {failure.reason for failure in failures} <= {"too_small", "not_a_skin_image"}
    assert len(pacs.instances()) == given_back(hospital, records) == sum(len(r.sent.kinds) for r in records)
    for record in records:
        assert "report" in record.sent.kinds
        for kind in {"segmentation", "report"} & set(record.sent.kinds):
            (tmp_path / "one.dcm").write_bytes(hospital.written(record)[kind])
            assert dciodvfy(tmp_path / "one.dcm") == [], (record.name, kind)
