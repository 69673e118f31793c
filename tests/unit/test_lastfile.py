"""The frames of one file, which is read only once."""

import hashlib
import time

import pytest

from dermbatch.errors import StoreUnavailable
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.stages import Stage
from workers.image.lastfile import LastFile

ORDER = Order(models={stage: ModelChoice(name=stage.value) for stage in Stage})


class Files:
    """Counts what is read."""

    def __init__(self):
        self.read = 0

    def __call__(self):
        self.read += 1
        return b"file %d" % self.read


def job(batch="b", source="s3://in/a.dcm", frame=1):
    return ImageJob(batch=batch, index=0, name="a", source=source, order=ORDER, frame=frame)


def test_a_file_is_read_once_for_all_its_frames():
    read, last = Files(), LastFile()
    for frame in range(1, 50):
        held = last.of(job(frame=frame), read)
        assert held.body == b"file 1"
        assert held.sha256 == hashlib.sha256(b"file 1").hexdigest()
    assert read.read == 1


@pytest.mark.parametrize("other", [{"batch": "c"}, {"source": "s3://in/b.dcm"}, {"frame": None}])
def test_another_batch_or_file_or_an_image_that_is_no_frame_is_read(other):
    read, last = Files(), LastFile()
    last.of(job(), read)
    assert last.of(job(**other), read).body == b"file 2"
    assert last.of(job(), read).body == b"file 3"


def test_an_image_that_is_no_frame_is_not_held():
    read, last = Files(), LastFile()
    for _ in range(2):
        last.of(job(frame=None), read)
    assert read.read == 2


def test_a_file_that_nobody_asks_for_is_let_go_of():
    read, last = Files(), LastFile(idle=0.01)

    for _ in range(600):
        time.sleep(0.05)
        if last.of(job(), read).body == b"file 2":
            return
    raise AssertionError("held for ever")


def test_nothing_is_held_of_a_file_that_could_not_be_read():
    read, last = Files(), LastFile()
    last.of(job(), read)

    def broken():
        raise StoreUnavailable("gone")

    with pytest.raises(StoreUnavailable):
        last.of(job(source="s3://in/b.dcm"), broken)
    assert last.of(job(), read).body == b"file 2"
