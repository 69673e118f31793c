"""Signatures of reports: who signed, what speaks against one, and whose the key is."""

import json

import pytest
from billed import as_home, closed
from pydantic import SecretStr
from standins import Store
from typer.testing import CliRunner

from dermbatch import layout
from dermbatch.errors import UsageError
from orchestrator.cli.program import application
from orchestrator.metering.accounts import Accounts
from orchestrator.metering.signature import ReportSignature, kept_key, public_of, signing_key, wrong
from tests import outcome_samples

KEY = SecretStr("ab" * 32)


def verified(store, public=None, batch="b"):
    body = store.objects["results", layout.report_signature("b")]
    signature = ReportSignature.model_validate_json(body)
    return wrong(signature, batch, lambda key: store.get("results", key), public or public_of(KEY))


@pytest.fixture
def store():
    return Store()


def test_a_report_that_is_signed_is_known_and_closing_again_signs_the_same(store):
    batch = outcome_samples.batch_of("b", 8)
    accounts = Accounts(key=signing_key(KEY))
    closed(store, batch, accounts)
    assert verified(store) == []
    first = store.objects["results", layout.report_signature("b")]
    closed(store, batch, accounts)
    assert store.objects["results", layout.report_signature("b")] == first
    closed(store, batch)
    assert ("results", layout.report_signature("b")) not in store.objects


@pytest.fixture
def signed_report(store):
    closed(store, outcome_samples.batch_of("b", 8), Accounts(key=signing_key(KEY)))
    return store


def test_what_speaks_against_a_signature_is_said(signed_report):
    store = signed_report
    report, sig = ("results", layout.report("b")), ("results", layout.report_signature("b"))
    kept = dict(store.objects)
    assert verified(store, public_of(SecretStr("cd" * 32)))[0].startswith("it is signed with another key")
    assert verified(store, batch="c") == [
        "it is the signature of batch b",
        "it does not say what the report was",
    ]
    store.objects[report] += b" "
    assert verified(store) == ["batches/b/report.html is not what was signed"]
    del store.objects[report]
    assert verified(store) == ["batches/b/report.html is gone"]
    store.objects.update(kept)
    signature = json.loads(store.objects[sig])
    for change in ({"signature": "00" * 64}, {"signature": "x"}, {"public_key": "zz"}, {"files": {}}):
        store.objects[sig] = json.dumps(signature | change).encode()
        assert any("does not hold" in sentence for sentence in verified(store)), change


def test_the_command_says_whether_a_report_is_what_was_signed(signed_report, monkeypatch, tmp_path):
    store = signed_report
    as_home(store, monkeypatch)
    run = lambda *words: CliRunner().invoke(application(["report"]), ["report", *map(str, words)])  # noqa: E731
    home = ("--home", tmp_path)
    assert "give --public-key" in run("verify", "b", *home).output
    assert isinstance(run("key", *home).exception, UsageError)
    monkeypatch.setenv("DERMBATCH_METERING__SIGNING_KEY", KEY.get_secret_value())
    public = run("key", *home).output.strip()
    assert run("verify", "b", *home).output == f"b: as signed with key {public}\n"
    folder = tmp_path / "out"
    for name in (layout.report("b"), layout.report_signature("b")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(store.objects["results", name])
    assert run("verify", "b", "--folder", folder, *home).exit_code == 0
    (folder / layout.report("b")).write_text("another")
    assert run("verify", "b", "--folder", folder, *home).exit_code == 1
    del store.objects["results", layout.report_signature("b")]
    ended = run("verify", "b", *home)
    assert ended.exit_code == 1
    assert "it was never signed" in ended.output


def test_a_key_that_a_kill_left_empty_is_made(tmp_path):
    (tmp_path / "report-signing.key").touch()
    assert len(public_of(kept_key(tmp_path))) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["report-signing.key"]


def test_a_key_of_a_home_is_made_once_and_is_its_owners_alone(tmp_path):
    first = kept_key(tmp_path)
    assert kept_key(tmp_path) == first
    assert (tmp_path / "report-signing.key").stat().st_mode & 0o777 == 0o600
    assert len(public_of(first)) == 64
    with pytest.raises(UsageError, match="SIGNING_KEY is not a key: 64 hexadecimal digits"):
        signing_key(SecretStr("short"))
