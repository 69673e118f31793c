"""PNG files (W3C PNG, third edition): whether the picture is complete, which decoders do not always report."""

from __future__ import annotations

from collections.abc import Iterator

from isal import isal_zlib

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Number of channels by colour type (11.2.1)."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row of each pass, and the steps across and down (8.2)."""
_AT_ONCE = 1 << 20


def chunks_fit(data: bytes) -> bool:
    """Whether a PNG file's chunks lead to its end chunk."""
    return any(kind == b"IEND" for kind, _, _ in _chunks(data))


def chunk(data: bytes, wanted: bytes) -> bytes | None:
    """The content of the first chunk of a kind, wherever it is; none if there is no such chunk."""
    return next((data[start:end] for kind, start, end in _chunks(data) if kind == wanted), None)


def rows_are_there(data: bytes) -> bool:
    """Whether a PNG file's deflated data hold all rows that its header states: Pillow leaves missing ones black.

    Args:
        data: The whole file, whose chunks fit.

    Raises:
        Exception: If the data cannot be inflated.
    """
    missing, inflater = _bytes_of_rows(data), isal_zlib.decompressobj()
    for kind, start, end in _chunks(data):
        if kind != b"IDAT":
            continue
        packed = data[start:end]
        while packed and missing > 0 and not inflater.eof:
            missing -= len(inflater.decompress(packed, _AT_ONCE))
            packed = inflater.unconsumed_tail
    return missing - len(inflater.flush()) <= 0


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each chunk, and where its content begins and ends."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4


def _bytes_of_rows(data: bytes) -> int:
    """Bytes of the filtered rows of all passes (7.2, 9)."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits = data[24] * _CHANNELS.get(data[25], 1)
    passes = _ADAM7 if data[28] == 1 else ((0, 0, 1, 1),)
    sides = ((-((left - width) // across), -((top - height) // down)) for left, top, across, down in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sides if columns > 0 and rows > 0)
