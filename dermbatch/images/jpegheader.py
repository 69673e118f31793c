"""What the headers of JPEG and JPEG 2000 code streams say: their size, and how the colours are meant."""

from __future__ import annotations

from dataclasses import dataclass

_SOF = frozenset((*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0), 0xF7))
_RGB_IDS = ((82, 71, 66), (114, 103, 98))


@dataclass(frozen=True)
class JpegHeader:
    """Header of a JPEG (ITU-T T.81) or JPEG-LS (T.87) stream.

    Attributes:
        height: Rows of the picture.
        width: Columns of the picture.
        precision: Bits a sample.
        ids: Component identifiers.
        jfif: Whether there is a JFIF marker, which says that three components are YCbCr.
        adobe_transform: Colour transform of the Adobe marker (0 none, 1 YCbCr, 2 YCCK), if there is one.
    """

    height: int
    width: int
    precision: int
    ids: tuple[int, ...]
    jfif: bool
    adobe_transform: int | None

    @property
    def has_rgb_ids(self) -> bool:
        """Whether the components are called R, G and B."""
        return self.ids in _RGB_IDS

    @property
    def decoded_as_ycbcr(self) -> bool:
        """Whether libjpeg takes three components for YCbCr (``default_decompress_parms`` in jdapimin.c)."""
        if self.jfif:
            return True
        if self.adobe_transform is not None:
            return self.adobe_transform != 0
        return self.ids != _RGB_IDS[0]


def read_jpeg_header(stream: bytes) -> JpegHeader | None:
    """Header of a JPEG or JPEG-LS stream; None where there is none before the picture's data begin."""
    jfif, adobe = False, None
    at = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while at + 4 <= len(stream):
        if stream[at] != 0xFF:
            return None
        marker = stream[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:  # without content
            at += 2
            continue
        length = int.from_bytes(stream[at + 2 : at + 4], "big")
        body = stream[at + 4 : at + 2 + length]
        if marker in _SOF and len(body) >= 6:
            count = body[5]
            return JpegHeader(
                height=int.from_bytes(body[1:3], "big"),
                width=int.from_bytes(body[3:5], "big"),
                precision=body[0],
                ids=tuple(body[6 : 6 + 3 * count : 3]),
                jfif=jfif,
                adobe_transform=adobe,
            )
        if marker in (0xDA, 0xD9) or length < 2:
            return None
        jfif = jfif or (marker == 0xE0 and body.startswith(b"JFIF\0"))
        if marker == 0xEE and body.startswith(b"Adobe") and len(body) >= 12:
            adobe = body[11]
        at += 2 + length
    return None


def jpeg_is_complete(stream: bytes) -> bool:
    """Whether a JPEG stream ends with its end marker; padding after it is allowed."""
    return stream[-2:] == b"\xff\xd9" or stream[-64:].rstrip(b"\0\r\n ").endswith(b"\xff\xd9")


def read_jpeg2000_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG 2000 code stream (ITU-T T.800, A.5.1), raw or in a JP2 file."""
    at = stream[:4096].find(b"\xff\x4f\xff\x51")
    if at < 0 or len(stream) < at + 24:
        return None
    right, bottom, left, top = (int.from_bytes(stream[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
    return bottom - top, right - left
