"""What decoders of untrusted files may do to the process that they run in; called there by name."""

import ctypes
import os
import signal
import time

import numpy as np

from dermbatch.bounded.limits import announce
from dermbatch.errors import BadInput


def measured(data):
    return len(data), os.getpid()


def picture(data, *, side):
    return {"pixels": np.full((side, side, 3), data[0], np.uint8), "bytes": data}


def refuse(data):
    raise BadInput("the file is odd", reason="corrupt")


def break_off(data):
    raise KeyError(data)


def crash(data):
    ctypes.string_at(0)


def spin(data):
    while True:
        pass


def sleep(data, seconds):
    time.sleep(seconds)


def take(data, size, claimed=0):
    announce(claimed)
    return len(np.ones(size, np.uint8))


def return_much(data, size):
    return memoryview(bytes(0)).tobytes() + b"\0" * size


def hold_the_lock(data, seconds):
    """As a decoder that never lets the interpreter go."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
    return len(data)


def die(data, number, marks=None):
    """Be killed: each time, or once where a file says that it happened."""
    if marks is not None:
        if marks.exists():
            return "done"
        marks.touch()
    os.kill(os.getpid(), number)
    signal.pause()
