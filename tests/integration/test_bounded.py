"""Reading untrusted files in processes of their own: what those may take, and what becomes of them."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest

from dermbatch.bounded.limits import Limits
from dermbatch.bounded.reader import Reader
from dermbatch.errors import BadInput, ReaderKilled, TooExpensive
from tests import misbehaving
from tests.waiting import wait_for

LIMITS = Limits(memory=64 << 20, bytes_per_pixel=10, seconds=1, seconds_per_megapixel=1, patience=60)


def ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture(scope="module")
def reader():
    reader = Reader(LIMITS, ["tests.misbehaving"])
    yield reader
    reader.close()


def other(reader, **limits):
    """A reader under other limits that shares the first one's nursery."""
    reader.warm()
    return Reader(replace(LIMITS, **limits), [], reader._nursery)


def test_values_come_back_as_they_are_and_pictures_can_be_drawn_on(reader):
    found = reader.run(misbehaving.picture, b"\7" * 100_000, side=700)
    assert found["bytes"] == b"\7" * 100_000
    assert found["pixels"].shape == (700, 700, 3)
    assert (found["pixels"] == 7).all()
    found["pixels"][0, 0] = 9
    assert found["pixels"][0, 0, 2] == 9


def test_one_process_reads_file_after_file(reader):
    first, second = (reader.run(misbehaving.measured, bytes(size)) for size in (0, 70_000))
    assert (first[0], second[0]) == (0, 70_000)
    assert first[1] == second[1] != os.getpid()


def test_errors_come_back_with_their_reason_and_nothing_of_the_file(reader):
    with pytest.raises(BadInput, match="the file is odd") as caught:
        reader.run(misbehaving.refuse, b"x")
    assert caught.value.reason == "corrupt"
    assert "misbehaving.py" in caught.value.__notes__[0]
    with pytest.raises(KeyError) as broken:
        reader.run(misbehaving.break_off, b"Doe^John")
    assert "Doe" not in broken.value.__notes__[0]


def test_a_crash_is_a_damaged_file_and_the_next_file_is_read(reader):
    with pytest.raises(BadInput, match=r"crashed \(SIGSEGV\)") as caught:
        reader.run(misbehaving.crash, b"x")
    assert caught.value.reason == "corrupt"
    assert reader.run(misbehaving.measured, b"abc")[0] == 3


def test_memory_is_bounded_by_what_the_header_claims(reader):
    assert reader.run(misbehaving.take, b"x", 40 << 20) == 40 << 20
    with pytest.raises(TooExpensive, match=r"64 MiB of memory.*DERMBATCH_READING__MEMORY") as caught:
        reader.run(misbehaving.take, b"x", 100 << 20)
    assert caught.value.reason == "too_expensive"
    assert reader.run(misbehaving.take, b"x", 100 << 20, claimed=5_000_000) == 100 << 20
    with pytest.raises(TooExpensive, match=r"111 MiB of memory that a picture of 5.0 megapixels"):
        reader.run(misbehaving.take, b"x", 200 << 20, claimed=5_000_000)
    assert reader.run(misbehaving.measured, b"abc")[0] == 3


def test_what_a_function_returns_counts_as_memory_too(reader):
    with pytest.raises(TooExpensive):
        reader.run(misbehaving.return_much, b"x", 60 << 20)


def test_a_processor_is_had_for_so_long(reader):
    with pytest.raises(TooExpensive, match=r"1 s of a processor.*DERMBATCH_READING__SECONDS"):
        reader.run(misbehaving.spin, b"x")
    assert reader.run(misbehaving.measured, b"abc")[0] == 3


def test_what_never_ends_is_ended(reader):
    impatient = other(reader, patience=0.3)
    began = time.monotonic()
    with pytest.raises(TooExpensive, match=r"on the clock.*DERMBATCH_READING__PATIENCE"):
        impatient.run(misbehaving.sleep, b"x", 600)
    assert time.monotonic() - began < 60
    assert impatient.run(misbehaving.measured, b"abc")[0] == 3


def test_a_process_that_was_killed_is_replaced_once(reader, tmp_path):
    assert reader.run(misbehaving.die, b"x", signal.SIGKILL, tmp_path / "mark") == "done"
    with pytest.raises(ReaderKilled):
        reader.run(misbehaving.die, b"x", signal.SIGKILL)
    _, idle = reader.run(misbehaving.measured, b"abc")
    psutil.Process(idle).kill()
    assert reader.run(misbehaving.measured, b"abc")[1] != idle


def test_a_nursery_that_was_killed_is_replaced_with_its_children():
    reader = Reader(LIMITS, ["tests.misbehaving"])
    _, child = reader.run(misbehaving.measured, b"abc")
    psutil.Process(child).parent().kill()
    wait_for(lambda: ended(child))
    _, new = reader.run(misbehaving.measured, b"abc")
    assert new != child
    nursery = psutil.Process(new).parent()
    reader.close()
    wait_for(lambda: ended(child) and ended(new) and ended(nursery.pid))


def test_a_process_ends_with_the_one_that_it_reads_for(reader):
    _, child = reader.run(misbehaving.measured, b"abc")
    reader._idle.pop()[0].close()
    wait_for(lambda: ended(child))


def test_arrays_are_one_copy_of_the_child_s(reader):
    """The picture lies in a file in memory that nobody can cut off while it is looked at."""
    found = reader.run(misbehaving.picture, b"\1", side=64)["pixels"]
    assert not found.flags.owndata
    assert np.array_equal(found, np.ones((64, 64, 3), np.uint8))


def test_a_decoder_that_holds_the_interpreter_s_lock_holds_up_nobody_else(reader):
    """A lease is kept by a thread, which gets no turn beside such a decoder in its own process."""
    beats, over = [], threading.Event()

    def beat():
        while not over.wait(0.01):
            beats.append(time.monotonic())

    keeper = threading.Thread(target=beat)
    keeper.start()
    assert reader.run(misbehaving.hold_the_lock, b"abc", 0.7) == 3
    over.set()
    keeper.join()
    assert len(beats) >= 10
