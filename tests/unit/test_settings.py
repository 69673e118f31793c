import pytest
from pydantic import ValidationError

from dermbatch.errors import UsageError
from dermbatch.settings import Settings, load
from dermbatch.stages import Stage


def test_variables_reach_nested_fields(monkeypatch):
    monkeypatch.setenv("DERMBATCH_STORE__ENDPOINT_URL", "http://s3:9000")
    monkeypatch.setenv("DERMBATCH_WORKER__CONCURRENCY", "7")
    monkeypatch.setenv("DERMBATCH_MODELS", '{"segment": {"name": "other", "version": "3"}}')
    settings = Settings()
    assert settings.store.endpoint_url == "http://s3:9000"
    assert settings.worker.concurrency == 7
    assert settings.models[Stage.SEGMENT].version == "3"


def test_a_secret_does_not_show(monkeypatch):
    monkeypatch.setenv("DERMBATCH_STORE__SECRET_ACCESS_KEY", "open sesame")
    assert "sesame" not in repr(Settings())


def test_nonsense_is_refused(monkeypatch):
    monkeypatch.setenv("DERMBATCH_LEDGER__LEASE", "-1")
    with pytest.raises(ValidationError):
        Settings()


def test_a_lease_outlives_two_heartbeats():
    ledger = Settings().ledger
    assert ledger.lease > 2 * ledger.heartbeat
    assert ledger.lease <= 15  # an image of a killed worker runs again within 15 s


@pytest.mark.parametrize("value", ["[[[[", "[" * 100_000])
def test_a_setting_that_is_no_json_is_refused_in_one_sentence(monkeypatch, value):
    monkeypatch.setenv("DERMBATCH_MODELS", value)
    with pytest.raises(UsageError, match="not JSON"):
        load()
