"""The audit log: what is noted, where, and what happens where it cannot be."""

import json
import os
import threading
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from dermbatch import audit
from dermbatch.audit import NO_AUDIT, Audit, file_of
from dermbatch.errors import AuditUnavailable, ObjectNotFound, PermanentError
from dermbatch.settings import AuditSettings
from orchestrator.cli.program import application
from orchestrator.reporting.accesses import accesses

URI = "s3://hospital/Mustermann/IM1"


@pytest.fixture
def log(tmp_path):
    log = Audit(AuditSettings(folder=str(tmp_path / "audit")), "worker")
    yield log
    log.close()


def lines(tmp_path):
    return [json.loads(text) for path in (tmp_path / "audit").iterdir() for text in path.read_text().splitlines()]


def test_a_line(log, tmp_path):
    log.purpose = "b:7"
    before = datetime.now(UTC)
    log.note("copy", URI, size=12, to="s3://ward/x")
    (line,) = lines(tmp_path)
    assert before.timestamp() - 0.001 <= datetime.fromisoformat(line.pop("at")).timestamp()
    assert line.pop("user")
    assert line.pop("host")
    assert (line.pop("after"), len(line.pop("chain"))) == ("0" * 64, 64)
    assert line == {
        "action": "copy",
        "object": URI,
        "bytes": 12,
        "to": "s3://ward/x",
        "for": "b:7",
        "program": "worker",
        "process": os.getpid(),
    }
    path = file_of(AuditSettings(folder=str(tmp_path / "audit")), "worker", before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_path_that_is_no_text(log, tmp_path):
    log.note("read", os.fsdecode(b"/in/M\xfcller.dcm"))
    (line,) = lines(tmp_path)
    assert line["object"].startswith("/in/M")


def test_originals_under_a_profile_are_called_by_pseudonyms_only(log, tmp_path):
    hidden = log.under(lambda uri: "4f2a")
    hidden.note("read", URI)
    with hidden.access("read", "hospital", "Mustermann/IM1", ours=False):
        pass
    with (
        pytest.raises(PermanentError),
        hidden.access("read", "hospital", "Mustermann/IM1", ours=False),
    ):
        raise PermanentError("no", reason="access_denied")
    assert [line["object"] for line in lines(tmp_path)] == ["pseudonym:4f2a"] * 3
    assert "Mustermann" not in str(lines(tmp_path))
    log.note("read", URI)
    assert lines(tmp_path)[-1]["object"] == URI


@pytest.mark.parametrize(
    ("key", "noted"),
    [
        ("batches/b/results/000000/0.json", True),
        ("batches/b/dicom/000000/0-seg.dcm", True),
        ("batches/b/report.html", True),
        ("batches/b/results.parquet", True),
        ("batches/b/originals/000000.sealed", True),
        ("images/ab/segment/cd/mask.png", True),
        ("images/known/ab.json", True),
        ("batches/b/batch.json", False),
        ("batches/b/plan.json", False),
        ("batches/b/summary.json", False),
        ("batches/b/manifest/000000.jsonl", False),
        ("batches/b/failed/000000/0.json", False),
        ("open/b.json", False),
        ("canaries/c/canary.json", False),
    ],
)
def test_image_data_and_results_are_noted_and_the_systems_own_records_are_not(log, tmp_path, key, noted):
    with log.access("read", "dermbatch", key, ours=True):
        pass
    assert len(list((tmp_path / "audit").glob("*"))) == noted
    with log.access("read", "hospital", key, ours=False):
        pass
    assert len(lines(tmp_path)) == 1 + noted


def test_a_write_is_noted_before_it_is_done_and_a_read_before_it_is_used(log, tmp_path):
    with log.access("write", "b", "k", ours=False, size=3):
        assert [line["action"] for line in lines(tmp_path)] == ["write"]
    with log.access("read", "b", "k", ours=False):
        assert len(lines(tmp_path)) == 1
    assert [line["action"] for line in lines(tmp_path)] == ["write", "read"]


def test_what_failed_says_so_and_what_is_not_there_says_nothing(log, tmp_path):
    with pytest.raises(PermanentError), log.access("delete", "b", "k", ours=False):
        raise PermanentError("no", reason="access_denied")
    with pytest.raises(ObjectNotFound), log.access("read", "b", "k", ours=False):
        raise ObjectNotFound("none")
    assert [(line["action"], line.get("outcome")) for line in lines(tmp_path)] == [
        ("delete", None),
        ("delete", "access_denied"),
    ]


def test_what_cannot_be_noted_is_not_done(tmp_path):
    (tmp_path / "audit").write_text("a file, where a folder should be")
    log = Audit(AuditSettings(folder=str(tmp_path / "audit")), "worker")
    done = []
    with pytest.raises(AuditUnavailable, match="cannot be written"), log.access("write", "b", "k", ours=False):
        done.append("written")
    assert done == []


def test_a_disk_that_is_full():
    log = Audit(AuditSettings(folder="-"), "worker")
    full = os.open("/dev/full", os.O_WRONLY)
    log._sink._stream = full
    try:
        with pytest.raises(AuditUnavailable, match="No space left"):
            log.note("read", URI)
    finally:
        os.close(full)


def test_a_line_that_was_cut_off_is_no_success(log, monkeypatch):
    monkeypatch.setattr(audit.os, "write", lambda file, line: len(line) - 1)
    with pytest.raises(AuditUnavailable, match="no space is left"):
        log.note("read", URI)


def test_each_day_has_its_file(log, tmp_path, monkeypatch):
    class Clock(datetime):
        day = 1

        @classmethod
        def now(cls, tz=None):
            return datetime(2026, 3, cls.day, 23, 59, tzinfo=tz)

    monkeypatch.setattr(audit, "datetime", Clock)
    log.note("read", "a")
    Clock.day = 2
    log.note("read", "b")
    log.note("read", "c")
    names = sorted(path.name.split("-")[1] for path in (tmp_path / "audit").iterdir())
    assert names == ["20260301", "20260302"]
    found = [line["object"] for line in accesses(tmp_path / "audit", since=datetime(2026, 3, 2, tzinfo=UTC))]
    assert found == ["b", "c"]


def test_threads_and_processes_write_whole_lines(log, tmp_path):
    def many():
        for number in range(200):
            log.note("read", f"s3://b/{number}/{'x' * 300}")

    log.note("read", "first")
    threads = [threading.Thread(target=many) for _ in range(4)]
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            many()
            os._exit(0)
        children.append(child)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(os.waitpid(child, 0)[1] == 0 for child in children)
    assert len(lines(tmp_path)) == 1 + 7 * 200


def test_to_streams(capfd):
    Audit(AuditSettings(folder="-"), "worker").note("read", URI)
    Audit(AuditSettings(folder="-"), "dermbatch-submit", command=True).note("read", URI)
    told = capfd.readouterr()
    assert json.loads(told.out)["program"] == "worker"
    assert json.loads(told.err)["program"] == "dermbatch-submit"
    NO_AUDIT.note("read", URI)
    assert capfd.readouterr() == ("", "")


def test_searching(log, tmp_path, monkeypatch):
    monkeypatch.setenv("DERMBATCH_AUDIT__FOLDER", str(tmp_path / "audit"))
    log.note("read", URI)
    log.note("send", "s3://dermbatch/batches/b/dicom/000000/0-sr.dcm", to="pacs:main")
    with next((tmp_path / "audit").iterdir()).open("a") as file:
        file.write('{"at": "2026-')  # what a full disk leaves
    runner = CliRunner()
    every = runner.invoke(application(["audit"]), ["audit", "--json"])
    assert [json.loads(line)["action"] for line in every.stdout.splitlines()] == ["read", "send"]
    one = runner.invoke(application(["audit"]), ["audit", "--object", "pacs:main"])
    assert one.stdout.count("\n") == 1
    assert " send s3://dermbatch/batches/b/dicom/000000/0-sr.dcm by worker of " in one.stdout
    assert runner.invoke(application(["audit"]), ["audit", "--since", "2999-01-01"]).stdout == ""


def test_an_original_is_found_by_its_own_name_by_who_has_the_salt(log, tmp_path, monkeypatch):
    from pydantic import SecretStr

    from orchestrator.planning.privacy.pseudonyms import Pseudonyms

    salt = "a secret that nobody guesses"
    log.under(Pseudonyms(SecretStr(salt)).name).note("read", URI)
    monkeypatch.setenv("DERMBATCH_AUDIT__FOLDER", str(tmp_path / "audit"))
    runner = CliRunner()
    assert runner.invoke(application(["audit"]), ["audit", "--object", URI]).stdout == ""
    monkeypatch.setenv("DERMBATCH_PRIVACY__SALT", salt)
    found = runner.invoke(application(["audit"]), ["audit", "--object", URI]).stdout
    assert found.count("\n") == 1
    assert "Mustermann" not in found


# The chain


def verify(folder, *options):
    environment = {"DERMBATCH_AUDIT__FOLDER": str(folder)}
    return CliRunner().invoke(application(["audit"]), ["audit", "verify", *options], env=environment)


@pytest.fixture
def chained(tmp_path):
    """A log of two days of one program, with twenty lines each."""
    folder = tmp_path / "audit"
    for day in (1, 2):
        sink = audit._Sink(AuditSettings(folder=str(folder)), "worker", 1)
        for number in range(20):
            sink.write(
                json.dumps({"at": f"{day}", "object": f"{number}"}).encode(), datetime(2026, 3, day, tzinfo=UTC)
            )
        sink.close()
    return sorted(folder.iterdir())


def changed(path, change):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(change(lines)))


def test_a_log_as_it_was_written_holds(chained):
    verdict = verify(chained[0].parent)
    assert verdict.exit_code == 0, verdict.output
    assert verdict.output.count("20 lines hold") == 2


TAMPERED = {
    "a line changed": lambda lines: [*lines[:5], lines[5].replace(b'"5"', b'"6"'), *lines[6:]],
    "a digest changed": lambda lines: [
        *lines[:5],
        lines[5].replace(b'"chain":"', b'"chain":"0')[:-4] + b'"}\n',
        *lines[6:],
    ],
    "a line taken out": lambda lines: [*lines[:5], *lines[6:]],
    "the first taken out": lambda lines: lines[1:],
    "two changed over": lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]],
    "a line put in": lambda lines: [*lines[:5], b'{"at":"x"}\n', *lines[5:]],
    "a line twice": lambda lines: [*lines[:5], lines[4], *lines[5:]],
    "a line at the end": lambda lines: [*lines, b'{"at":"x"}\n'],
    "cut within a line": lambda lines: [*lines[:-1], lines[-1][:30]],
}


@pytest.mark.parametrize("day", [0, 1])
@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_what_was_changed_shows(chained, tamper, day):
    changed(chained[day], tamper)
    verdict = verify(chained[0].parent)
    assert verdict.exit_code == 1, verdict.output


def test_an_end_that_was_cut_off_shows_by_the_next_day_or_by_a_digest(chained):
    digest = verify(chained[0].parent).output.strip().rpartition(" ")[2]
    assert verify(chained[0].parent, "--known", digest).exit_code == 0
    changed(chained[1], lambda lines: lines[:-1])
    assert verify(chained[0].parent).exit_code == 0
    assert "no line has" in verify(chained[0].parent, "--known", digest).output
    assert verify(chained[0].parent, "--known", digest).exit_code == 1
    changed(chained[0], lambda lines: lines[:-1])
    assert verify(chained[0].parent).exit_code == 1


def test_files_that_were_thrown_away_by_age_are_no_fault_and_one_in_between_is(chained, tmp_path):
    sink = audit._Sink(AuditSettings(folder=str(tmp_path / "audit")), "worker", 1)
    sink.write(b'{"at":"3"}', datetime(2026, 3, 3, tzinfo=UTC))
    sink.close()
    assert verify(tmp_path / "audit").exit_code == 0
    kept = chained[1].read_bytes()
    chained[1].unlink()
    assert "does not follow" in verify(tmp_path / "audit").output
    chained[0].unlink()
    assert verify(tmp_path / "audit").exit_code == 0
    chained[1].write_bytes(kept)
    assert verify(tmp_path / "audit").exit_code == 0


def test_a_log_of_a_version_without_chains_goes_on(tmp_path):
    path = file_of(AuditSettings(folder=str(tmp_path)), "worker", datetime.now(UTC))
    path.write_bytes(b'{"at":"1"}\n{"at":"2"}\n')
    for number in range(2):
        Audit(AuditSettings(folder=str(tmp_path)), "worker").note("read", f"{number}")
    verdict = verify(tmp_path)
    assert (verdict.exit_code, "2 lines hold" in verdict.output, "2 earlier lines" in verdict.output) == (
        0,
        True,
        True,
    )


def test_without_space_nothing_of_a_line_stays(tmp_path, monkeypatch):
    log = Audit(AuditSettings(folder=str(tmp_path)), "worker")
    log.note("read", "1")
    with monkeypatch.context() as patch:
        real = os.write
        patch.setattr(audit.os, "write", lambda file, line: real(file, line[:10]))
        with pytest.raises(AuditUnavailable):
            log.note("read", "2")
    log.note("read", "3")
    assert "2 lines hold" in verify(tmp_path).output
