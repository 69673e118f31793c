"""Secrets of the local stack are in no repr, which tracebacks and logs may hold; its logs do not grow for ever."""

import pytest

from dermbatch.settings import RedisSettings, Settings, StackSettings, StoreSettings, TritonSettings
from orchestrator.stack import logs
from orchestrator.stack.environment import base_environment, plain, settings_environment
from orchestrator.stack.process import Part
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.servers.s3 import DiskWatch, s3_part
from orchestrator.stack.state import StackState

SECRET = "a-secret-of-many-letters"


def test_no_repr_has_a_secret(tmp_path):
    redis, redis_settings = redis_part(tmp_path / "redis", tmp_path / "redis.log", 1, {})
    s3, store, _ = s3_part(tmp_path / "s3", tmp_path / "s3.log", 2, base_environment({}), StoreSettings())
    settings = Settings(
        redis=redis_settings,
        store=store,
        triton=TritonSettings(key=SECRET),
        privacy={"salt": SECRET},
        watch={"token": SECRET},
        dicomweb={"main": {"url": "https://pacs/x", "token": SECRET}},
    )
    state = StackState(pid=1, created=0, status="running", ports={}, parts={}, settings=plain(settings))
    worker = Part("worker", ["x", SECRET], settings_environment(settings), tmp_path / "worker.log", lambda: True)
    shown = " ".join(map(repr, (settings, state, redis, s3, worker))) + str(settings)
    password = redis_settings.url.partition("://:")[2].partition("@")[0]
    hidden = (redis_settings.signing_key, store.secret_access_key)
    for secret in (SECRET, password, *(one.get_secret_value() for one in hidden)):
        assert len(secret) > 20
        assert secret not in shown


def test_what_is_wrong_with_settings_says_no_secret():
    with pytest.raises(ValueError, match="signing_key") as wrong:
        RedisSettings(url="redis://:geheim@x", signing_key="too-short")
    assert "geheim" not in str(wrong.value)


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "MOST", 100)
    return tmp_path / "part.log"


def test_a_large_log_is_set_aside_while_it_is_written(log):
    assert not logs.rotate(log)
    with log.open("ab", buffering=0) as writer:
        for number in range(3):
            writer.write(b"%d" % number * 101)
            assert logs.rotate(log)
            assert not logs.rotate(log)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (log.parent / "part.log.1").read_bytes() == b"2" * 101
    assert len(list(log.parent.iterdir())) == 2


def test_who_reads_a_log_goes_on_when_it_is_rotated(log):
    watch = DiskWatch(log)
    log.write_bytes(b"x" * 200)
    watch.look()
    logs.rotate(log)
    watch.look()
    with log.open("ab") as writer:
        writer.write(b"Failed to persist S3 object k")
    with pytest.raises(Exception, match="free some space if it is full"):
        watch.look()
    part = Part("part", [], {}, log, lambda: True)
    part._log_start = 1000
    assert part.last_lines() == "Failed to persist S3 object k"


def test_a_store_has_the_keys_that_are_set_and_else_new_ones(tmp_path):
    def keys(**named):
        stack = StackSettings(**named)
        _, store, _ = s3_part(
            tmp_path / "s3", tmp_path / "s3.log", 2, base_environment({}), StoreSettings(), stack
        )
        return store.access_key_id, store.secret_access_key.get_secret_value()

    assert keys(store_access_key_id="pacs", store_secret_access_key=SECRET) == ("pacs", SECRET)
    assert keys() != keys()
    with pytest.raises(ValueError, match="belong together"):
        StackSettings(store_access_key_id="pacs")
