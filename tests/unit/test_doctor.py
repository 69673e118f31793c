"""What `dermbatch doctor` and `dermbatch models` say."""

import importlib.util
import json
import shutil
import socket

import pytest

from dermbatch.models.cards import card_of
from dermbatch.models.repository import default_model_repository
from dermbatch.settings import DEFAULT_MODELS, RedisSettings, Settings, StoreSettings
from dermbatch.settings.destinations import DicomwebSettings
from dermbatch.stages import Stage
from orchestrator.cli import checks
from orchestrator.cli.program import program


def typed(capsys, *words):
    code = 0
    try:
        program()(list(words), prog_name="dermbatch")
    except SystemExit as end:
        code = end.code
    return code, capsys.readouterr().out


def by_what(findings):
    return {finding.what: finding for finding in findings}


def test_a_whole_installation_is_found(tmp_path):
    found = by_what(checks.installed(tmp_path / "not" / "yet"))
    for what in ("Python", "Valkey (Redis)", "S3 server", "Triton Inference Server", "ONNX Runtime", "Models"):
        assert found[what].state == "ok", found[what]
        assert found[what].mend == ""


def test_what_is_missing_is_named_with_how_to_mend_it(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    missing = {"ministack", "onnxruntime", "libjpeg"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else find(name))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    found = by_what(checks.installed(tmp_path))
    for what in ("S3 server", "Triton Inference Server", "ONNX Runtime"):
        assert found[what].state == "missing"
        assert found[what].mend.startswith("pip install 'dermbatch[stack]'")
    assert found["JPEG Lossless and JPEG-LS in DICOM"].state == "optional"
    assert found["Disk"].state == "missing"


def test_a_model_that_was_changed_is_found(tmp_path, monkeypatch):
    shutil.copytree(default_model_repository(), tmp_path / "models")
    file = tmp_path / "models" / "segment_lite" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"x")
    monkeypatch.setattr(checks.repository, "default_model_repository", lambda: tmp_path / "models")
    finding = by_what(checks.installed(tmp_path))["Models"]
    assert finding.state == "missing"
    assert "segment_lite" in finding.detail


def test_servers_that_do_not_answer_are_named():
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        nobody, somebody = bound.getsockname()[1], listening.getsockname()[1]
        settings = Settings(
            redis=RedisSettings(url=f"redis://127.0.0.1:{nobody}/0"),
            store=StoreSettings(
                endpoint_url=f"http://127.0.0.1:{nobody}", access_key_id="a", secret_access_key="b"
            ),
            dicomweb={
                "main": DicomwebSettings(url=f"http://127.0.0.1:{somebody}/dicom-web"),
                "gone": DicomwebSettings(url=f"http://127.0.0.1:{nobody}/dicom-web"),
            },
        )
        found = by_what(checks.reachable(settings, None))
    assert [found[what].state for what in ("Redis, as set", "Object store, as set")] == ["missing", "missing"]
    assert all(found[what].mend for what in ("Redis, as set", "Object store, as set"))
    assert (found["PACS main"].state, found["PACS gone"].state) == ("ok", "missing")


def test_settings_that_cannot_be_are_a_finding(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DERMBATCH_WORKER__CONCURRENCY", "none")
    code, output = typed(capsys, "doctor", "--home", str(tmp_path), "--json")
    assert code == 1
    assert json.loads(output)[-1]["what"] == "Settings"
    assert "DERMBATCH_WORKER__CONCURRENCY" in json.loads(output)[-1]["detail"]


def test_doctor_is_content_without_a_running_stack(capsys, tmp_path):
    code, output = typed(capsys, "doctor", "--home", str(tmp_path))
    assert code == 0
    assert "no stack is running" in " ".join(output.split())


def test_models_are_listed_with_what_was_measured_of_them(capsys):
    _, output = typed(capsys, "models", "--json")
    found = {model["name"]: model for model in json.loads(output)}
    for stage, choice in DEFAULT_MODELS.items():
        model = found[choice.name]
        assert model["default_of"] == [stage.value]
        assert "onnxruntime" in model["engines"]
        assert model["figures"]
        assert model["does"].endswith(".")
    _, table = typed(capsys, "models")
    assert all(name in table for name in found)
    assert "mean auc" in table


@pytest.mark.parametrize("text", ["", "# no card", "\udcff"])
def test_a_card_that_says_nothing_has_no_figures(tmp_path, text):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "MODEL_CARD.md").write_bytes(text.encode("utf-8", "surrogateescape"))
    card = card_of(tmp_path, "m")
    assert card is None or (card.version, card.figures) == (None, {})
    assert card_of(tmp_path, "none") is None


def test_a_card_tells_version_and_figures():
    card = card_of(default_model_repository(), DEFAULT_MODELS[Stage.SEGMENT].name)
    assert card.version == "1"
    assert set(card.figures) >= {"jaccard", "calibration error"}
