import io
import threading

import numpy as np
import pytest

from dermbatch.records.row import read_array


def written(array, *, pickled=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def test_an_array_comes_back():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert read_array(written(array)).tobytes() == array.tobytes()


def archived():
    buffer = io.BytesIO()
    np.savez(buffer, one=np.zeros(2))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing of the kind",
        written(np.zeros(4))[:-1],
        written(np.zeros(4))[:20],
        written(np.array([{}]), pickled=True),
        archived(),
    ],
)
def test_what_is_no_array_is_refused(body):
    with pytest.raises(ValueError, match=r"npy|pickle|array|reshape|EOF|read|magic|header"):
        read_array(body)


def test_headers_are_parsed_one_at_a_time(monkeypatch):
    """Python 3.11 fails now and then where two threads parse at once."""
    inside, most, body = [], [], written(np.zeros(4))
    both = threading.Event()

    def load(*_, **__):
        inside.append(1)
        most.append(len(inside))
        both.wait(0.05)
        inside.pop()
        return np.zeros(4)

    monkeypatch.setattr(np, "load", load)
    threads = [threading.Thread(target=read_array, args=(body,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4
