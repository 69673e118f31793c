"""The fragments of encapsulated pixel data (PS3.5, A.4): where they are, and which of them make up a picture."""

from __future__ import annotations

import re

from dermbatch.images.jpegheader import (
    begins_jpeg2000,
    jpeg_end,
    read_jpeg2000_header,
    read_jpeg_header,
)

ITEM = b"\xfe\xff\x00\xe0"
_BEGINNING = 4096
"""Bytes of a fragment within which a picture begins, after any leading zeros."""
_PIXEL_DATA = re.compile(
    rb"\xe0\x7f\x10\x00(?:O[BW]\0\0)?(?:\xff\xff\xff\xff|...[\0-\x7f])(?=\xfe\xff\x00\xe0)", re.DOTALL
)
_PADDING = re.compile(rb"[\0\xff]*?(?=\xff\xd8\xff|\xff\x4f\xff\x51|\0\0\0\x0cjP  )")
_END = b"\xff\xd9"
_RLE_HEADER, _RLE_SEGMENTS = 64, 15

Place = tuple[int, int]
"""Where something begins and ends."""


def picture_of(stream: bytes) -> bytes:
    """A stream without what precedes its picture: zeros, and fill bytes of markers (ITU-T T.81, B.1.1.2)."""
    found = _PADDING.match(stream)
    return stream[found.end() :] if found else stream


def family(head: bytes) -> str | None:
    """The kind of stream that these bytes begin: ``jpeg`` (JPEG-LS too), ``jpeg2000``, or none."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    return "jpeg2000" if begins_jpeg2000(head) else None


def fragments(data: bytes, at: int = 0) -> list[Place]:
    """Where the contents of the items are; the offset table comes first.

    Args:
        data: The bytes that hold the items.
        at: Where the first one begins.
    """
    found = []
    while data[at : at + 4] == ITEM and at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        found.append((at + 8, min(at + 8 + length, len(data))))
        at += 8 + length
    return found


def pictures(data: bytes, places: list[Place]) -> list[list[Place]]:
    """The fragments of each picture, told apart by where pictures begin; none if the first fragment begins none.

    Args:
        data: The bytes that hold the fragments.
        places: Where they are, without the offset table.
    """
    found: list[list[Place]] = []
    for start, end in places:
        if begins(data[start : min(end, start + _BEGINNING)]):
            found.append([(start, end)])
        elif found:
            found[-1].append((start, end))
        else:
            return []
    return found


def frame_places(data: bytes, frames: int) -> list[list[Place]]:
    """The fragments of each frame, by where pictures begin rather than by an offset table; none if unclear.

    Args:
        data: Encapsulated pixel data.
        frames: How many there are.
    """
    places = fragments(data)[1:]
    each = [places] if frames == 1 else pictures(data, places)
    return each if len(each) == frames else []


def joined(data: bytes, places: list[Place]) -> bytes:
    """The contents of fragments, joined."""
    return b"".join(data[start:end] for start, end in places)


def begins(head: bytes) -> bool:
    """Whether a picture begins: of a JPEG family, perhaps after zeros, or of RLE Lossless (PS3.5, G.5)."""
    if family(picture_of(head)) is not None:
        return True
    count, first = int.from_bytes(head[:4], "little"), int.from_bytes(head[4:8], "little")
    return len(head) > _RLE_HEADER == first and 0 < count <= _RLE_SEGMENTS


def may_hold_more(head: bytes, size: int) -> bool:
    """Whether a file may hold another picture behind its first fragment.

    Args:
        head: Its beginning.
        size: Bytes of the file.
    """
    found = _PIXEL_DATA.search(head)
    if found is None:
        return False
    at = found.end()
    for _ in range(2):  # the offset table, and the first fragment
        at += 8 + int.from_bytes(head[at + 4 : at + 8], "little")
        if at + 8 > len(head):
            return at + 8 < size  # the delimiter alone has 8 bytes
    return head[at : at + 4] == ITEM


def proven_pictures(data: bytes) -> int:
    """How many frames a file that does not say so holds, as far as its fragments prove it.

    They do if each picture is whole, from its start to its end marker, and all have one size and coding; or if
    each fragment is a frame of RLE Lossless, which has one fragment a frame (PS3.5, A.4.2).

    Args:
        data: The whole file.

    Returns:
        1 unless more are proved.
    """
    found = _PIXEL_DATA.search(data)
    places = fragments(data, found.end())[1:] if found else []
    if len(places) < 2:
        return 1
    each = pictures(data, places)
    shapes = {_shape(picture_of(joined(data, one))) for one in each}
    return len(each) if len(shapes) == 1 and None not in shapes else 1


def is_whole(stream: bytes) -> bool:
    """Whether a picture of a JPEG family has its end marker."""
    return jpeg_end(stream) is not None if family(stream) == "jpeg" else stream.rstrip(b"\0").endswith(_END)


def _shape(stream: bytes) -> tuple[object, ...] | None:
    """Size and coding of a whole picture; none where it is cut off or cannot be followed."""
    if family(stream) == "jpeg":
        jpeg = read_jpeg_header(stream) if is_whole(stream) else None
        return None if jpeg is None else (jpeg.height, jpeg.width, len(jpeg.ids), jpeg.marker)
    if family(stream) is None:
        return ("rle", *stream[:4])
    header = read_jpeg2000_header(stream) if is_whole(stream) else None
    return None if header is None else (header.height, header.width, header.components)
