"""What the headers of JPEG and JPEG 2000 code streams say: their size, and how the colours are meant."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dermbatch.errors import BadInput, TooExpensive

JPEG_LS = 0xF7
"""The marker of a JPEG-LS frame header (ITU-T T.87, C.1.1)."""

_MARKER = re.compile(rb"\xff[^\x00-\xbf\xd0-\xd7\xff]")
_NO_FILL = re.compile(rb"[^\xff]")
_SOF = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), JPEG_LS))
_RGB_IDS = ((82, 71, 66), (114, 103, 98))


@dataclass(frozen=True)
class JpegHeader:
    """Header of a JPEG (ITU-T T.81) or JPEG-LS (T.87) stream.

    Attributes:
        height: Rows of the picture.
        width: Columns of the picture.
        precision: Bits a sample.
        marker: Second byte of the frame header's marker, which says how the picture is
        coded: 0xC0 baseline, 0xC3 lossless,
            0xF7 JPEG-LS ...
        ids: Component identifiers.
        sampling: Horizontal and vertical sampling factor of each component, four bits each.
        jfif: Whether there is a JFIF marker, which says that three components are YCbCr.
        adobe_transform: Colour transform of the Adobe marker (0 none, 1 YCbCr, 2 YCCK), if there is one.
    """

    height: int
    width: int
    precision: int
    marker: int
    ids: tuple[int, ...]
    sampling: tuple[int, ...]
    jfif: bool
    adobe_transform: int | None

    @property
    def has_rgb_ids(self) -> bool:
        """Whether the components are called R, G and B."""
        return self.ids in _RGB_IDS

    @property
    def is_ycbcr(self) -> bool | None:
        """Whether three components are YCbCr, as far as the stream proves it; None if it proves nothing.

        Sub-sampled chroma cannot be RGB; after that, component names count, then the JFIF and Adobe markers. The
        two markers prove nothing if they contradict each other.
        """
        if len(set(self.sampling)) > 1:
            return True
        if self.has_rgb_ids:
            return False
        if self.jfif:
            return None if self.adobe_transform == 0 else True
        return None if self.adobe_transform is None else self.adobe_transform != 0

    @property
    def decoded_as_ycbcr(self) -> bool:
        """Whether libjpeg takes three components for YCbCr (``default_decompress_parms`` in jdapimin.c)."""
        if self.jfif:
            return True
        if self.adobe_transform is not None:
            return self.adobe_transform != 0
        return self.ids != _RGB_IDS[0]


_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_MOST_SCANS = 200


def check_scans(stream: bytes, header: JpegHeader | None, most: int = _MOST_SCANS) -> None:
    """Refuse a progressive picture with more scans than any encoder makes: each is another pass over the picture.

    Args:
        stream: From the start marker on.
        header: Header of this stream.
        most: Scans that are accepted.

    Raises:
        TooExpensive: If there are more scans. Encoders make 4 to 20.
    """
    # In coded data no FF is followed by anything but 00 and restart markers (ITU-T T.81, B.1.1.5).
    if header is not None and header.marker in _PROGRESSIVE and (scans := stream.count(b"\xff\xda")) > most:
        raise TooExpensive(
            f"the progressive JPEG picture has {scans:,} scans; at most {most} are taken: re-save it"
        )


def segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment before the first scan of a JPEG or JPEG-LS stream, as far as it goes."""
    at = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at = _past_fill(stream, at)
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without content
            at += 2
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker in (0xDA, 0xD9) or length < 2:
            return
        yield marker, stream[at + 4 : at + 2 + length]
        at += 2 + length


def read_jpeg_header(stream: bytes) -> JpegHeader | None:
    """Header of a JPEG or JPEG-LS stream; None if there is none before the picture's data begin."""
    jfif, adobe = False, None
    for marker, body in segments(stream):
        if marker in _SOF and len(body) >= 6:
            count = body[5]
            return JpegHeader(
                height=int.from_bytes(body[1:3], "big"),
                width=int.from_bytes(body[3:5], "big"),
                precision=body[0],
                marker=marker,
                sampling=tuple(body[7 : 6 + 3 * count : 3]),
                ids=tuple(body[6 : 6 + 3 * count : 3]),
                jfif=jfif,
                adobe_transform=adobe,
            )
        jfif = jfif or (marker == 0xE0 and body.startswith(b"JFIF\0"))
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
    return None


def _past_fill(stream: bytes, at: int) -> int:
    """Position of the last fill byte of those that begin at a position."""
    found = _NO_FILL.search(stream, at)
    return (found.start() if found else len(stream)) - 1


def jpeg_end(stream: bytes) -> int | None:
    """Where a JPEG or JPEG-LS picture ends, after its end marker; None if the stream ends before that.

    It continues past the scans, where :func:`read_jpeg_header` stops, and looks into no segment.

    Args:
        stream: From the start marker on; anything may follow the picture.
    """
    at = 2
    while at + 2 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xD9:
            return at + 2
        if marker == 0xFF:
            at = _past_fill(stream, at)
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
            if marker == 0xDA:
                found = _MARKER.search(stream, at)
                at = found.start() if found else len(stream)
    return None


def is_followed_by_another(stream: bytes) -> bool:
    """Whether another picture begins after a JPEG picture, as in MPO files or in concatenated ones."""
    last = stream.rfind(b"\xff\xd8\xff")  # mostly that of a thumbnail in the header
    end = jpeg_end(stream) if last > 0 else None
    return end is not None and last >= end


def jpeg_is_complete(stream: bytes) -> bool:
    """Whether a JPEG stream contains its end marker; anything may follow it."""
    return stream[-2:] == b"\xff\xd9" or jpeg_end(stream) is not None


@dataclass(frozen=True)
class Jpeg2000Header:
    """Header of a JPEG 2000 code stream (ITU-T T.800, A.5.1, A.6.1).

    Attributes:
        height: Rows of the picture.
        width: Columns of the picture.
        components: Number of components.
        precision: Bits a sample, of the first component.
        transformed: Whether components 0 to 2 went through the multiple component transformation, so that a
            decoder gives RGB.
        signed: Whether samples of the first component have a sign.
    """

    height: int
    width: int
    components: int
    precision: int
    transformed: bool
    signed: bool = False


def begins_jpeg2000(stream: bytes) -> bool:
    """Whether these bytes begin a JPEG 2000 code stream, raw or in a JP2 file."""
    return stream.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n"))


def read_jpeg2000_header(stream: bytes) -> Jpeg2000Header | None:
    """Header of a JPEG 2000 code stream, raw or in a JP2 file; None if there is none."""
    at = stream[: 1 << 16].find(b"\xff\x4f\xff\x51")
    if at < 0 or len(stream) < at + 43:
        return None
    right, bottom, left, top = (int.from_bytes(stream[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
    components = int.from_bytes(stream[at + 40 : at + 42], "big")
    coding = stream.find(b"\xff\x52", at, at + (1 << 16))
    return Jpeg2000Header(
        height=bottom - top,
        width=right - left,
        components=components,
        precision=(stream[at + 42] & 0x7F) + 1,
        transformed=0 <= coding < len(stream) - 9 and stream[coding + 8] == 1,
        signed=stream[at + 42] >> 7 == 1,
    )


def check_tiles(stream: bytes) -> None:
    """Refuse a JPEG 2000 picture that lacks tiles: a decoder silently leaves them black.

    Args:
        stream: Raw or in a JP2 file (ITU-T T.800, A.4.2 and A.5.1); anything else passes.

    Raises:
        BadInput: ``corrupt``.
    """
    at = stream[: 1 << 16].find(b"\xff\x4f\xff\x51")
    if at < 0 or len(stream) < at + 40:
        return
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", stream, at + 8)
    if not width or not height or right <= left or bottom <= top:
        return
    tiles = -(-(right - left) // width) * -(-(bottom - top) // height)
    if (found := _tiles(stream, at + 2)) < tiles:
        raise BadInput(
            f"the JPEG 2000 picture has {found:,} of its {tiles:,} tiles: it is damaged; copy it again, or "
            "re-save the picture",
            reason="corrupt",
        )


def _tiles(stream: bytes, at: int) -> int:
    """How many tiles have at least one part, reading from the main header's first segment on."""
    while at + 4 <= len(stream) and stream[at : at + 2] != b"\xff\x90":
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    found = set[int]()
    while at + 10 <= len(stream) and stream[at : at + 2] == b"\xff\x90":
        tile, length = struct.unpack_from(">HI", stream, at + 4)
        found.add(tile)
        if length < 14:  # 0: to the end
            break
        at += length
    return len(found)
