"""What accompanies the picture in compressed pixel data and colour profiles: comments, thumbnails, makers' names.

The coded picture itself stays the same bit for bit: other segments are overwritten with zeros, keeping their
length so that no offset changes.
"""

from __future__ import annotations

import struct

from dermbatch.errors import BadInput
from dermbatch.images.dicom.fragments import fragments
from dermbatch.images.dicom.header import element

_STARTS = (b"\xff\xd8", b"\xff\x4f")
_DELIMITER = b"\xfe\xff\xdd\xe0"

_SOI, _EOI, _SOS, _COM = 0xD8, 0xD9, 0xDA, 0xFE
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_KEPT_OF_APP = {0xE0: (b"JFIF\0", 14), 0xE8: (b"mrfx", 5), 0xEE: (b"Adobe", 12)}
"""Application segments that say how colours are coded (ITU-T T.871, T.87, Adobe 5116), and how many of their bytes
stay."""

_RESERVED = frozenset({*range(0x02, 0xC0), *range(0xF0, 0xF7), *range(0xF9, 0xFE)})
"""Segments that no decoder reads (ITU-T T.81, table B.1); F7 and F8, of JPEG-LS, are not among them."""

_SOC, _SOT, _SOD, _J2K_COM = 0x4F, 0x90, 0x93, 0x64


def without_comments(pixel_data: bytes) -> bytes:
    """Encapsulated pixel data (PS3.5, A.4) of a JPEG family, of the same length, with the same pictures.

    Args:
        pixel_data: Basic offset table and fragments.

    Raises:
        BadInput: ``corrupt`` if it cannot be parsed: what is not understood is not passed on.
    """
    places = _fragments(pixel_data)
    stream = bytearray(b"".join(pixel_data[start:end] for start, end in places))
    at = 0
    while at < len(stream):
        if stream[at : at + 2] == b"\xff\xd8":
            at = _jpeg(stream, at)
        elif stream[at : at + 2] == b"\xff\x4f":
            at = _jpeg2000(stream, at)
        elif at == 0 and stream[0] not in (0, 0xFF):  # zeros and fill bytes before a picture are padding as well
            raise _corrupt()
        else:  # between two pictures there may only be padding
            begun = at
            at = min(next_at if (next_at := stream.find(start, at)) >= 0 else len(stream) for start in _STARTS)
            _wipe(stream, begun, at)
    made, used = bytearray(pixel_data), 0
    for start, end in places:
        made[start:end] = stream[used : used + end - start]
        used += end - start
    return bytes(made)


def _corrupt() -> BadInput:
    return BadInput(
        f"what {element('PixelData')} holds cannot be parsed as a compressed picture; export the image again",
        reason="corrupt",
    )


def _fragments(data: bytes) -> list[tuple[int, int]]:
    """Where the fragments are, without the offset table."""
    found = fragments(data)
    if len(found) < 2 or data[found[-1][1] :][:4] not in {b"", _DELIMITER}:
        raise _corrupt()
    return found[1:]


def _wipe(stream: bytearray, start: int, end: int) -> None:
    end = min(end, len(stream))
    stream[start:end] = bytes(max(0, end - start))


def _jpeg(stream: bytearray, at: int) -> int:
    """Follow one picture of JPEG or JPEG-LS (ITU-T T.81, B.1); returns where it ends.

    This does not use :mod:`dermbatch.images.jpegheader`, which reads as much as it can of a damaged picture: here
    anything not understood is refused, and segments are overwritten on the way.
    """
    at += 2
    while at + 2 <= len(stream):
        if stream[at] != 0xFF:
            raise _corrupt()
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == _EOI:
            return at + 2
        elif marker in _ALONE:
            at += 2
        else:
            length = int.from_bytes(stream[at + 2 : at + 4], "big")
            if length < 2:
                raise _corrupt()
            if marker == _COM or 0xE0 <= marker <= 0xEF or marker in _RESERVED:
                _wipe(stream, at + 4 + _kept(stream, at, marker), at + 2 + length)
            at += 2 + length
            if marker == _SOS:
                at = _behind_scan(stream, at)
    return len(stream)


def _kept(stream: bytearray, at: int, marker: int) -> int:
    """Bytes of a segment's content that stay."""
    word, length = _KEPT_OF_APP.get(marker, (b"", 0))
    return length if word and stream.startswith(word, at + 4) else 0


def _behind_scan(stream: bytearray, at: int) -> int:
    """The next marker after coded samples, in which 0xFF is followed by a small byte or a restart marker."""
    while (at := stream.find(b"\xff", at)) != -1 and at + 1 < len(stream):
        if stream[at + 1] >= 0xC0 and not 0xD0 <= stream[at + 1] <= 0xD7 and stream[at + 1] != 0xFF:
            return at
        at += 1
    return len(stream)


def _jpeg2000(stream: bytearray, at: int) -> int:
    """Follow one codestream of JPEG 2000 (ITU-T T.800, A.4); returns where it ends."""
    at, tile = at + 2, None
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            raise _corrupt()
        marker = stream[at + 1]
        if marker == _EOI:
            return at + 2
        if marker == _SOD:
            start, length = tile or (at, 0)
            # Length 0: up to the end of the picture, whose marker occurs nowhere before (A.2).
            at = start + length if length else _end(stream, at)
            tile = None
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if length < 2:
            raise _corrupt()
        if marker == _J2K_COM:
            _wipe(stream, at + 6, at + 2 + length)
        elif marker == _SOT:
            tile = at, int.from_bytes(stream[at + 6 : at + 10], "big")
            if tile[1] and tile[1] < 14:
                raise _corrupt()
        at += 2 + length
    return min(at + 2, len(stream))


def _end(stream: bytearray, at: int) -> int:
    found = stream.find(b"\xff\xd9", at)
    return found if found >= 0 else len(stream)


_COLOUR_TAGS = frozenset(
    {b"wtpt", b"bkpt", b"chad", b"rXYZ", b"gXYZ", b"bXYZ", b"rTRC", b"gTRC", b"bTRC", b"kTRC"}
    | {f"{way}{intent}".encode() for way in ("A2B", "B2A") for intent in "012"}
)
_HEADER, _ENTRY = 128, 12


def plain_profile(profile: bytes) -> bytes | None:
    """An ICC profile with the same colours and nothing else (ICC.1, 7): no names, no dates, no makers.

    Returns:
        None if it cannot be parsed: readers ignore such a profile, too.
    """
    if len(profile) < _HEADER + 4 or profile[36:40] != b"acsp":
        return None
    tags = _colour_tags(profile)
    if not tags:
        return None
    # Readers trust a profile that calls itself sRGB without looking further.
    name = b"sRGB" if b"sRGB" in profile or "sRGB".encode("utf-16-be") in profile else b"colours"
    tags[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name + bytes(1 + 78)
    tags[b"cprt"] = b"text\0\0\0\0none\0"
    table, body = bytearray(struct.pack(">I", len(tags))), bytearray()
    start = _HEADER + 4 + _ENTRY * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    fixed = bytearray(_HEADER)
    fixed[0:4] = struct.pack(">I", start + len(body))
    fixed[8:24] = profile[8:24]  # version, class, colour spaces
    fixed[24:36] = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    fixed[36:40] = b"acsp"
    fixed[64:80] = profile[64:80]  # rendering intent, illuminant
    return bytes(fixed + table + body)


def _colour_tags(profile: bytes) -> dict[bytes, bytes]:
    """What the colours depend on, each no longer than its kind says."""
    count = int.from_bytes(profile[_HEADER : _HEADER + 4], "big")
    found = {}
    for number in range(min(count, 100)):
        entry = profile[_HEADER + 4 + _ENTRY * number :][:_ENTRY]
        offset, size = int.from_bytes(entry[4:8], "big"), int.from_bytes(entry[8:12], "big")
        content = profile[offset : offset + size]
        if entry[:4] in _COLOUR_TAGS and len(content) >= 12:
            found[entry[:4]] = content[: _length(content)]
    return found


def _length(content: bytes) -> int:
    """Bytes that the content of a tag has by its kind (ICC.1, 10)."""
    kind, count = content[:4], int.from_bytes(content[8:12], "big")
    if kind == b"XYZ ":
        return 20
    if kind == b"curv":
        return 12 + 2 * count
    if kind == b"para":
        return 12 + 4 * {0: 1, 1: 3, 2: 4, 3: 5, 4: 7}.get(count >> 16, 0)
    if kind == b"sf32":
        return 8 + 4 * 9
    return len(content)
