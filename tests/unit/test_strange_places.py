"""Folders, environments and terminals that nobody thinks of end in a sentence, or do no harm."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from dermbatch.errors import UsageError
from dermbatch.s3 import connect
from dermbatch.settings import StoreSettings
from orchestrator.cli.commands import once
from orchestrator.cli.program import run
from orchestrator.planning.models import named
from orchestrator.stack.servers.redis import redis_part
from orchestrator.stack.state import make_home

OWN = {"access_key_id": "a", "secret_access_key": "b"}


def told(capsys, *words):
    """The sentence of a command that has to end with code 2."""
    with pytest.raises(SystemExit) as ended:
        run(list(map(str, words)))
    assert ended.value.code == 2
    return " ".join(capsys.readouterr().err.split())


def test_samples_are_drawn_into_this_folder_and_by_any_seed(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(SystemExit) as ended:
        run(["samples", ".", "--count", "1", "--seed", "-5"])
    assert ended.value.code == 0
    assert len(list((tmp_path / "here").iterdir())) == 1
    assert len(list((tmp_path / "here-truth").iterdir())) == 3


def test_samples_say_where_they_cannot_be(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert "cannot be created" in told(capsys, "samples", tmp_path / "file")
    assert "name another folder with --truth" in told(capsys, "samples", tmp_path, "--truth", tmp_path / "truth")


def test_a_stage_is_not_given_two_models():
    assert named(["segment=a@1", "segment=a@1"]) == named(["segment=a@1"])
    with pytest.raises(UsageError, match="two models for segment: a and b"):
        named(["segment=a", "segment=b"])


def test_a_home_that_cannot_be_made_or_told_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file/home cannot be made: Not a directory"):
        make_home(tmp_path / "file" / "home")
    with pytest.raises(UsageError, match="not UTF-8"):
        make_home(tmp_path / "bad\udcff")


def test_a_line_break_in_the_folders_name_is_none_in_the_configuration(tmp_path):
    folder = tmp_path / "a\nb"
    redis_part(folder, tmp_path / "log", 1, {})
    assert f'dir "{tmp_path}/a\\nb"\n' in (folder / "valkey.conf").read_text()


def test_profiles_of_aws_matter_only_to_stores_that_may_be_meant(monkeypatch, tmp_path):
    (tmp_path / "config").write_text("[torn")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert (
        connect(StoreSettings(endpoint_url="http://127.0.0.1:1", **OWN)).meta.endpoint_url == "http://127.0.0.1:1"
    )
    with pytest.raises(UsageError, match=r"AWS_.*config"):
        connect(StoreSettings())
    monkeypatch.delenv("AWS_CONFIG_FILE")
    with pytest.raises(UsageError, match="nobody"):
        connect(StoreSettings(region="eu-central-1"))
    monkeypatch.delenv("AWS_PROFILE")
    with pytest.raises(UsageError, match="nowhere"):
        connect(StoreSettings(endpoint_url="nowhere", region="eu-central-1", **OWN))


def test_what_is_not_the_users_is_named(monkeypatch, capsys):
    def closed(*_):
        raise PermissionError(errno.EACCES, "Permission denied", "out/batches")

    monkeypatch.setattr(once.options, "repository", closed)
    with pytest.raises(SystemExit) as ended:
        run(["run", ".", "--out", "out"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "dermbatch: out/batches: Permission denied\n"


def test_a_full_disk_behind_the_output_is_one_sentence():
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "orchestrator.cli", "models"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert ended.returncode == 1
    assert ended.stderr == "dermbatch: No space left on device\n"
