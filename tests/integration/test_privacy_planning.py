"""Planning under a profile on a real store: copies, hidden plans, kills, the sealed table."""

import os
import stat
import subprocess
import sys
import zipfile
from base64 import b64decode
from io import BytesIO

import pytest
from nacl.public import PrivateKey
from pydantic import SecretStr
from pydicom import dcmread

from dermbatch import layout
from dermbatch.errors import UsageError
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom, encode
from dermbatch.records.asked import Filters, ModelChoice, Order, PlanRecord
from dermbatch.settings import PrivacySettings, Settings
from dermbatch.stages import Stage
from dermbatch.store import ObjectStore
from orchestrator.batches.entries import read_batch, read_manifest_part
from orchestrator.planning.intake.candidates import Candidate
from orchestrator.planning.intake.intake import Intake
from orchestrator.planning.planner import plan
from orchestrator.planning.privacy.deidentifier import Deidentifier
from orchestrator.planning.privacy.deidentify import deidentify
from orchestrator.planning.privacy.profile import Profile
from orchestrator.planning.privacy.pseudonyms import Pseudonyms
from orchestrator.planning.privacy.reidentification import (
    WrongKey,
    fetched_parts,
    new_keys,
    opened,
    read_key,
    stored_parts,
    write_key,
)
from orchestrator.planning.resegment import earlier_images
from orchestrator.reporting.fetch import fetch_originals

SALT = SecretStr("a salt for tests, and long enough")
PRIVATE, PUBLIC = new_keys()
ORDER = Order(models={Stage.SEGMENT: ModelChoice(name="m")}, stages=(Stage.SEGMENT,))
DRAWN = phantom(2, height=64, width=80)


@pytest.fixture
def store(empty_store):
    return ObjectStore(empty_store)


@pytest.fixture
def export(tmp_path):
    """Five images and a damaged archive of a patient, with the patient's name everywhere."""
    folder = tmp_path / "Doe^Jane"
    folder.mkdir()
    for number in range(3):
        (folder / f"Doe-{number}.dcm").write_bytes(dicom(DRAWN, identity=number))
    (folder / "Doe.jpg").write_bytes(encode(DRAWN, ".jpg", identity=0))
    several = dcmread(BytesIO(dicom(DRAWN, identity=9, sop_class=SECONDARY_CAPTURE, jpeg=False)))
    several.SOPClassUID, several.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.7.4", 2
    several.PixelData, several.BurnedInAnnotation = several.PixelData * 2, "NO"
    several.save_as(folder / "Doe-frames.dcm")
    with zipfile.ZipFile(folder / "Doe.zip", "w") as archive:
        archive.writestr("../Doe.png", b"x")
    return folder


def deidentifier(salt=SALT, **profile):
    chosen = Profile(name="test", **{"reidentification": True, **profile})
    return Deidentifier(chosen, Settings(privacy=PrivacySettings(salt=salt, public_key=PUBLIC)))


def walked(export, filters=None):
    return Intake(Settings(), None, in_place=False, filters=filters).walk([str(export)])


def everything(store):
    """All that was written, keys and bodies, but the sealed table."""
    found = b""
    for bucket in (store.bucket, store.incoming_bucket):
        for info in store.list(bucket, ""):
            found += info.key.encode() + b"\n" + store.get(bucket, info.key) + b"\n"
    return found


def entries(store, name="b"):
    images = read_batch(store, name).images
    return [
        entry
        for first in range(0, images, layout.PART_SIZE)
        for entry in read_manifest_part(store, name, layout.part_of(first)[0], images=images)
    ]


def rows(store, name="b"):
    return [row for part in stored_parts(store, store.bucket, name) for row in opened(part, _key(PRIVATE))]


def _key(private):
    return PrivateKey(b64decode(private))


def test_a_batch_holds_copies_and_a_sealed_table_only(store, export):
    plain = plan("plain", ORDER, walked(export), store)
    assert b"Doe" in everything(store)
    for bucket in (store.bucket, store.incoming_bucket):
        store.delete_prefix(bucket, "")
    filters = Filters(include=("Doe*", "*Doe*"), exclude=("Roe*",))
    batch = plan("b", ORDER, walked(export, filters), store, deidentify=deidentifier())
    written = everything(store)
    for word in (b"Doe", b"Roe", b"PHANTOM", SALT.get_secret_value().encode()):
        assert word not in written
    assert (batch.images, plain.images) == (7, 7)
    assert batch.order.deidentified.profile == "test"
    found = entries(store)
    frames = [entry for entry in found if entry.frame]
    assert len({entry.source for entry in frames}) == 1
    assert [entry.name.rpartition("#")[2] for entry in frames] == ["frame=1", "frame=2"]
    refused = [entry for entry in found if entry.refusal]
    assert [entry.refusal.reason for entry in refused] == ["zip_slip"]
    for entry in found:
        if entry.source is not None:
            body = store.get(*entry.source.removeprefix("s3://").split("/", 1))
            assert (b"Patient" in body, len(body)) == (False, entry.size)
    told = {row.index: row for row in rows(store)}
    assert set(told) == set(range(7))
    assert all("Doe" in row.original for row in told.values())
    assert {row.name for row in told.values()} == {entry.name for entry in found}
    assert {row.patient for row in told.values()} == {
        "",
        "PHANTOM-0000",
        "PHANTOM-0001",
        "PHANTOM-0002",
        "PHANTOM-0009",
    }


def test_two_batches_and_copies_of_files_have_the_same_names(store, export):
    plan("b", ORDER, walked(export), store, deidentify=deidentifier())
    plan("c", ORDER, walked(export), store, deidentify=deidentifier())
    one, other = ([entry.model_dump(exclude={"source"}) for entry in entries(store, name)] for name in "bc")
    assert one == other
    plan("d", ORDER, walked(export), store, deidentify=deidentifier(SecretStr("x" * 20)))
    assert {entry["name"] for entry in one}.isdisjoint(entry.name for entry in entries(store, "d"))


def test_a_killed_plan_goes_on_under_its_profile_and_salt_only(store, export, monkeypatch):
    monkeypatch.setattr(layout, "PART_SIZE", 2)
    plan("whole", ORDER, walked(export), store, deidentify=deidentifier())

    class Killed(BaseException):
        pass

    def kill(record):
        if record.images == 4:
            raise Killed

    with pytest.raises(Killed):
        plan("b", ORDER, walked(export), store, deidentify=deidentifier(), told=kill)
    begun = PlanRecord.model_validate_json(store.get(store.bucket, layout.plan_record("b")))
    assert begun.position.after is not None
    for wrong in (deidentifier(dates="keep"), deidentifier(SecretStr("y" * 20)), None):
        with pytest.raises(UsageError, match="deidentified"):
            plan("b", ORDER, walked(export), store, deidentify=wrong)
    plan("b", ORDER, walked(export), store, deidentify=deidentifier())
    assert b"Doe" not in everything(store)
    assert [e.name for e in entries(store)] == [e.name for e in entries(store, "whole")]
    assert [row.original for row in rows(store)] == [row.original for row in rows(store, "whole")]


def test_what_cannot_be_read_again_is_never_left_in_place(store, export):
    in_place = [Candidate("a", uri="s3://hospital/a", size=1, etag="e")]
    with pytest.raises(ValueError, match="in_place"):
        plan("b", ORDER, in_place, store, deidentify=deidentifier())


def test_a_table_needs_a_key(export):
    with pytest.raises(UsageError, match="DERMBATCH_PRIVACY__PUBLIC_KEY"):
        Deidentifier(Profile(name="a", reidentification=True), Settings(privacy=PrivacySettings(salt=SALT)))
    wrong = PrivacySettings(salt=SALT, public_key="bm8ga2V5")
    with pytest.raises(UsageError, match="DERMBATCH_PRIVACY__PUBLIC_KEY"):
        Deidentifier(Profile(name="a", reidentification=True), Settings(privacy=wrong))


def test_the_table_opens_with_its_key_alone(store, export, tmp_path):
    plan("b", ORDER, walked(export), store, deidentify=deidentifier())
    (part,) = stored_parts(store, store.bucket, "b")
    assert b"Doe" not in part
    with pytest.raises(WrongKey):
        opened(part, _key(new_keys()[0]))
    with pytest.raises(WrongKey):
        opened(part[:-1], _key(PRIVATE))
    write_key(tmp_path / "key", PRIVATE)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="never overwritten"):
        write_key(tmp_path / "key", PRIVATE)
    fetch_originals(store, "b", tmp_path / "out")
    (fetched,) = fetched_parts(tmp_path / "out", "b")
    assert opened(fetched, read_key(tmp_path / "key")) == rows(store)
    (tmp_path / "other").write_text("no key")
    for file in ("other", "none"):
        with pytest.raises(UsageError):
            read_key(tmp_path / file)


def test_a_batch_of_copies_run_again_keeps_its_flags(store, tmp_path):
    (tmp_path / "a.dcm").write_bytes(dicom(DRAWN, identity=1, sop_class=SECONDARY_CAPTURE, jpeg=False))
    plan("b", ORDER, walked(tmp_path / "a.dcm"), store, deidentify=deidentifier(burned_in_text="flag"))
    plan("again", ORDER, earlier_images(store, ["b"]), store)
    assert [entry.may_have_text for entry in entries(store) + entries(store, "again")] == [True, True]


def test_another_process_makes_the_same_copy():
    source, salt = dicom(phantom(4, height=96, width=128), identity=1), "a salt for tests, and long enough"
    program = (
        "import sys; from pydantic import SecretStr\n"
        "from orchestrator.planning.privacy.deidentify import deidentify\n"
        "from orchestrator.planning.privacy.profile import Profile\n"
        "from orchestrator.planning.privacy.pseudonyms import Pseudonyms\n"
        "made = deidentify(sys.stdin.buffer.read(), Profile(name='test', dates='shift'), "
        f"Pseudonyms(SecretStr({salt!r})), max_pixels=10**8)\n"
        "sys.stdout.buffer.write(made.data)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", program], input=source, capture_output=True, check=True, env=env)
    here = deidentify(source, Profile(name="test", dates="shift"), Pseudonyms(SecretStr(salt)), max_pixels=10**8)
    assert other.stdout == here.data
