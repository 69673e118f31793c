"""Sources that are files of the worker's own machine."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
from standins import Store

from dermbatch import layout
from dermbatch.errors import ObjectNotFound, PermanentError, StoreUnavailable
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.settings import WorkerSettings
from dermbatch.stages import Stage
from workers.image.lastfile import LastFile
from workers.image.source import Source, Stopwatch

ORDER = Order(models={stage: ModelChoice(name=stage.value) for stage in Stage})


def source(uri, **limits):
    job = ImageJob(batch="b", index=0, name="a", source=uri, order=ORDER)
    return Source(job, Store(), WorkerSettings(**{"local_sources": True, **limits}), Stopwatch())


@pytest.mark.parametrize(
    "name", [b"a.jpg", b"a b#c?d%20e.jpg", "\u00e4 \u6f22.jpg".encode(), b"not \xff utf-8.jpg"]
)
def test_a_file_is_read_whatever_it_is_called(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"picture")
    found = source(path.as_uri())
    assert found.body == b"picture"
    assert found.sha256 == layout.identity(hashlib.sha256(b"picture").hexdigest(), None)
    assert found.vouched is None
    found.close()


def test_a_worker_that_others_give_jobs_to_reads_no_file(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"of this machine")
    with pytest.raises(PermanentError, match="a file of the machine that planned it") as refused:
        _ = source(path.as_uri(), local_sources=False).body
    assert refused.value.reason == "unreadable"


def test_what_is_no_file_any_more_is_refused_and_never_waited_for(tmp_path):
    with pytest.raises(ObjectNotFound, match="has been removed since it was planned"):
        _ = source((tmp_path / "gone.jpg").as_uri()).body
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name in ("pipe.jpg", "folder.jpg", "loop.jpg"):
        with pytest.raises(PermanentError, match="the file cannot be read") as refused:
            _ = source((tmp_path / name).as_uri()).body
        assert refused.value.reason == "unreadable"


def test_a_file_that_has_grown_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.jpg"
    path.write_bytes(b"12345")
    with pytest.raises(PermanentError) as refused:
        _ = source(path.as_uri(), max_bytes=4).body
    assert refused.value.reason == "too_large"


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_disk_that_fails_for_now_is_tried_again(tmp_path, monkeypatch, code):
    def failing(path, flags):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(StoreUnavailable, match="cannot be read for now"):
        _ = source(Path("/any.jpg").as_uri()).body


def test_an_object_that_was_opened_is_read_whatever_is_held_of_the_frame_before(tmp_path):
    """Who opened it was told about its content, which may differ from before."""
    path = tmp_path / "frames.dcm"
    last = LastFile()
    for body in (b"first", b"second"):
        path.write_bytes(body)
        job = ImageJob(batch="b", index=0, name="a", source=path.as_uri(), order=ORDER, frame=1)
        found = Source(job, Store(), WorkerSettings(local_sources=True), Stopwatch(), last)
        assert found.vouched is None
        assert found.body == body
