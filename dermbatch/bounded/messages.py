"""Values passed between two processes: as files in memory, whose descriptors go through a socket.

Arrays are not copied into messages: they are written once into a file, which the receiver maps.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MOST_PARTS = 64
_HEAD = struct.Struct("<cH")

QUESTION, PIXELS, DONE, FAILED = b"Q", b"C", b"D", b"F"
"""Kinds of messages: what to do; pixels that a header claims; a value; an exception."""

Buffer = bytes | memoryview


def send(peer: socket.socket, kind: bytes, value: object, *more: bytes) -> None:
    """Send a value, and bytes that are not to be copied.

    Args:
        peer: Keeps messages apart (``SOCK_SEQPACKET``).
        kind: Kind of the message.
        value: Anything that can be pickled.
        more: Bytes to send along unchanged.

    Raises:
        OSError: If nobody is at the other end, or there is no memory.
    """
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts: list[Buffer] = [pickled, *(one.raw() for one in buffers), *more]
    lengths = [memoryview(part).nbytes for part in parts]
    if len(parts) > _MOST_PARTS:
        raise ValueError("too many parts")
    held = os.memfd_create("dermbatch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(held, parts)
        fcntl.fcntl(held, fcntl.F_ADD_SEALS, _SEALS)
        head = _HEAD.pack(kind, len(more)) + struct.pack(f"<{len(parts)}Q", *lengths)
        socket.send_fds(peer, [head], [held])
    finally:
        os.close(held)


def _write(held: int, parts: Sequence[Buffer]) -> None:
    for part in parts:
        left = memoryview(part).cast("B")
        while left:
            left = left[os.write(held, left) :]


def receive(peer: socket.socket) -> tuple[bytes, Any, list[memoryview]] | None:
    """The next message: its kind, its value, and the bytes beside it; none if the peer is gone.

    What is received is trusted like its sender, which is one of this program's own processes.
    """
    try:
        head, held, _, _ = socket.recv_fds(peer, _HEAD.size + 8 * _MOST_PARTS, 1)
    except ConnectionError:
        return None
    if not head:
        return None
    kind, beside = _HEAD.unpack_from(head)
    lengths = struct.unpack(f"<{(len(head) - _HEAD.size) // 8}Q", head[_HEAD.size :])
    parts = _mapped(held[0], lengths)
    inside = len(parts) - beside
    return kind, pickle.loads(parts[0], buffers=parts[1:inside]), parts[inside:]  # noqa: S301 - our own child's


def _mapped(held: int, lengths: Sequence[int]) -> list[memoryview]:
    """The parts of a file in memory that nobody can cut off."""
    try:
        whole = sum(lengths)
        if fcntl.fcntl(held, fcntl.F_GET_SEALS) & _SEALS != _SEALS or os.fstat(held).st_size != whole:
            raise ValueError("not a whole message")
        view = memoryview(mmap.mmap(held, whole, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE))
    finally:
        os.close(held)
    parts = []
    for length in lengths:
        parts.append(view[:length])
        view = view[length:]
    return parts
