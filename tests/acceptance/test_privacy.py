"""De-identified batches of the real stack, with sentinels wherever a patient could be: none comes out anywhere."""

import base64
import gzip
import json
import os
import urllib.request

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from commands import dermbatch, failures, results
from sentinels import DAY, WORD, found_in, leaks, picture, planted, png_text, zipped

from dermbatch import layout
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import SECONDARY_CAPTURE, dicom
from dermbatch.store import ObjectStore
from orchestrator.stack import host
from tests.waiting import wait_for

SALT = {"DERMBATCH_PRIVACY__SALT": "a salt for tests, and long enough"}
RULES = """
profiles:
  clinic-a: {dates: shift, reidentification: true}
rules:
  - {name: hospital, prefix: s3://hospital, stages: [segment], dicom: true, deidentify: clinic-a}
"""
BAD = 5
"""Inputs among the planted ones that fail."""


def inputs(folder):
    """An export full of sentinels: images of one patient, photographs, archives, and what cannot be taken."""
    drawn = phantom(3, height=240, width=320)
    one, other = dicom(drawn, identity=1), dicom(drawn, identity=2, sop_class=SECONDARY_CAPTURE, jpeg=False)
    bad = planted(one, SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    found = {
        f"{WORD}^Zoe/{DAY}/{WORD}-1.dcm": planted(one),
        f"{WORD}^Zoe/{DAY}/{WORD}-2": planted(other, BurnedInAnnotation="NO"),
        f"{WORD}^Zoe/text-{WORD}.dcm": planted(other, BurnedInAnnotation="YES"),
        f"{WORD}^Zoe/{WORD}-ct.dcm": bad,
        f"{WORD}.jpg": picture(drawn.image, "JPEG"),
        f"{WORD}-cut.jpg": picture(drawn.image, "JPEG")[:9000],
        f"{WORD}-cut.dcm": planted(one)[:-9000],
        f"{WORD}.zip": zipped({f"{WORD}/{DAY}/{WORD}.png": picture(drawn.image, "PNG"), f"../{WORD}.png": b"x"}),
    }
    for name, data in found.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return found


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """The planted inputs in a folder."""
    folder = tmp_path_factory.mktemp("source") / WORD
    inputs(folder)
    return folder


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """A profile that asks for all there is, and the environment and key that it needs."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "profile.yaml").write_text("name: clinic-a\ndates: shift\nreidentification: true\n")
    made = dermbatch("keys", "new", folder / "key")
    assert made.code == 0, made.err
    return folder / "profile.yaml", {**SALT, "DERMBATCH_PRIVACY__PUBLIC_KEY": made.out.strip()}, folder / "key"


@pytest.fixture
def temporary(tmp_path):
    """A folder for temporary files that can be looked into."""
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp"


def test_the_search_looks_into_what_is_packed(tmp_path):
    drawn = phantom(3, height=32, width=32)
    hidden = {
        "base64": base64.b64encode(b"ab" + WORD.encode() * 3),
        "utf-16": WORD.encode("utf-16-le"),
        "gzip": gzip.compress(WORD.encode()),
        "zip": zipped({"a": gzip.compress(WORD.encode())}),
        "picture": picture(drawn.image, "PNG"),
        "packed text": png_text(WORD),
        "implicit": planted(dicom(drawn, identity=1)),
        "lower case": WORD.lower().encode(),
        "date": f"{DAY[:4]}-{DAY[4:6]}-{DAY[6:]}".encode(),
    }
    pq.write_table(pa.table({"name": [WORD]}), tmp_path / "a.parquet", compression="zstd")
    for name, data in hidden.items():
        assert found_in(data), name
        (tmp_path / name).write_bytes(data)
    (tmp_path / f"{WORD}.txt").touch()
    assert len(leaks(tmp_path)) == len(hidden) + 2
    assert not found_in(base64.b64encode(b"nothing of the kind" * 9))
    assert not found_in(base64.b64encode(b"\x1f\x8b" + bytes(40)))
    assert found_in(base64.b64encode(b"\x1f\x8b" + WORD.encode() * 3))


def test_the_search_finds_what_is_not_hidden(export, small_models, tmp_path):
    ended = dermbatch(
        "run",
        export,
        "--out",
        tmp_path / "out",
        "--dicom",
        "--stages",
        "segment",
        "--batch",
        "plain",
        "--model-repository",
        small_models,
    )
    assert ended.code == 1, ended.err
    found = " ".join(leaks(tmp_path / "out"))
    for part in ("manifest", "results", "failed", "dicom", "report.html", "results.parquet", "plan.json"):
        assert part in found
    # Even then: no name, id or date in logs, but in the one that is there to say which file was read.
    logs = tmp_path / "out" / ".dermbatch" / "logs"
    assert leaks(logs, but=(logs / "audit",)) == []
    assert leaks(logs / "audit")
    for record in failures(tmp_path / "out").values():
        assert not found_in(record.message.encode())


def test_nothing_of_a_patient_leaves_the_source_in_run(export, profile, tmp_path, temporary):
    file, secrets, key = profile
    env = {**secrets, "TMPDIR": str(temporary), "DERMBATCH_LOG_LEVEL": "DEBUG"}
    out = tmp_path / "out"
    ended = dermbatch(
        *("run", export, "--out", out, "--dicom", "--stages", "segment", "--batch", "b", "--deidentify", file),
        env=env,
    )
    assert ended.code == 1, ended.err
    assert not found_in((ended.out + ended.err).encode())
    assert leaks(out, temporary) == []
    done, failed = results(out), failures(out)
    assert (len(done), len(failed)) == (4, BAD)
    assert {record.reason for record in failed.values()} == {
        *("burned_in_text", "not_a_skin_image", "truncated", "zip_slip"),
    }
    patients = {name.partition("/")[0] for name in done if name.endswith(".dcm")}
    assert len(patients) == 1
    assert sum(len(record.dicom) for record in done.values()) == 4
    secret = SALT["DERMBATCH_PRIVACY__SALT"].encode()
    assert not any(secret in path.read_bytes() for path in out.rglob("*") if path.is_file())
    batch = json.loads((out / "batches" / "b" / "batch.json").read_text())
    assert batch["order"]["deidentified"]["profile"] == "clinic-a"
    told = dermbatch("reidentify", "b", "--key", key, "--from", out)
    rows = {row["name"]: row for row in map(json.loads, told.out.splitlines())}
    assert set(rows) == {*done, *failed}
    assert all(WORD in row["original"] for row in rows.values())
    assert {rows[name]["patient"] for name in done if name.endswith(".dcm")} == {WORD}


def watched_once(folder, store, env):
    """Take the same objects in by watching, under the same profile, and wait for their outcomes."""
    rules = folder / "rules.yaml"
    rules.write_text(RULES)
    ended = dermbatch("watch", "--rules", rules, "--once", env=env)
    assert ended.code == 0, ended.err
    (name,) = (name for name in store.folders(store.bucket, layout.BATCHES) if name.startswith("watch-hospital-"))

    def outcomes():
        told = json.loads(dermbatch("status", name, "--json", env=env).out)["batches"][0]
        return told["done"], told["failed"]

    wait_for(lambda: sum(outcomes()) == 4 + BAD, 60, "the outcomes")
    assert outcomes() == (4, BAD)
    return ended


def test_nothing_of_a_patient_leaves_the_source_in_submit(export, profile, tmp_path, temporary):
    file, secrets, key = profile
    home = tmp_path / "home"
    env = {**secrets, "TMPDIR": str(temporary), "DERMBATCH_LOG_LEVEL": "DEBUG", "DERMBATCH_HOME": str(home)}
    assert dermbatch("up", env=env).code == 0
    try:
        settings = host.attach(home)
        assert settings.privacy.salt is None
        store = ObjectStore(settings.store)
        for bucket in ("hospital", "apart"):
            store.create_bucket(bucket)
        for path in filter(os.path.isfile, export.rglob("*")):
            key_there = str(path.relative_to(export.parent))
            store.put(key_there, path.read_bytes(), "application/octet-stream", bucket="hospital")
        env["DERMBATCH_PRIVACY__BUCKET"] = "apart"
        command = (
            "submit",
            "s3://hospital/",
            "--batch",
            "b",
            "--dicom",
            "--stages",
            "segment",
            "--deidentify",
            file,
        )
        estimated = dermbatch(*command, "--dry-run", "--json", env=env)
        assert estimated.code == 0, estimated.err
        assert json.loads(estimated.out)["refused"] == BAD
        submitted = dermbatch(*command, env=env)
        assert submitted.code == 0, submitted.err
        watched = dermbatch("status", "b", "--watch", env=env)
        fetched = dermbatch("fetch", "b", "--out", tmp_path / "out", env=env)
        told = dermbatch("reidentify", "b", "--key", key, env=env)
        outputs = [estimated, submitted, watched, fetched]
        assert not found_in("".join(one.out + one.err for one in outputs).encode())
        assert len(told.out.splitlines()) == 9
        assert found_in(told.out.encode())
        again = dermbatch(*command, "--dry-run", "--json", env=env)
        assert json.loads(again.out)["done"] == 3  # and one in an archive, which is not unpacked for this
        seen = watched_once(tmp_path, store, env)
        assert not found_in((seen.out + seen.err).encode())
        kept = redis.Redis.from_url(settings.redis.url)
        for name in kept.keys("*"):
            assert not found_in(name + kept.dump(name)), name
        for part in ("worker", "orchestrator", "triton_metrics"):
            port = host.running(home).ports.get(part)
            if port is not None:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    assert not found_in(answer.read())
        source = next((home / "s3" / "objects").rglob("hospital"))
        assert leaks(home, tmp_path / "out", temporary, but=(source,)) == []
        assert leaks(source)
    finally:
        assert dermbatch("down", env=env).code == 0
    assert leaks(home, but=(source,)) == []
