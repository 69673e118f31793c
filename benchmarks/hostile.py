"""Files that ask for more than they hold, and large ones that are right: made in seconds, nothing is stored."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

Pixels = NDArray[np.uint8]


def skin(height: int, width: int) -> Pixels:
    """A picture with something in it, uint8 [height, width, 3]."""
    chance = np.random.default_rng(7)
    coarse = chance.integers(90, 220, (height // 64 + 2, width // 64 + 2, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def progressive(scans: int, side: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each is a pass over the whole picture.

    Of one colour, so that its scans are a few bytes.
    """
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    whole = cv2.imencode(".jpg", np.full((side, side, 3), 150, np.uint8), options)[1].tobytes()
    last = whole[whole.rfind(b"\xff\xda") : -2]
    return whole[:-2] + last * (scans - whole.count(b"\xff\xda")) + b"\xff\xd9"


def _ifd(tags: dict[int, tuple[int, int]], following: int) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, (kind, value) in sorted(tags.items()))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def directories(count: int) -> bytes:
    """A TIFF of so many directories, each a picture of 64 x 64 grey pixels."""
    made, at = [b"II*\0" + struct.pack("<I", 8 + 4096), bytes(4096)], 8 + 4096
    for number in range(count):
        tags = {256: (4, 64), 257: (4, 64), 258: (3, 8), 259: (3, 1), 262: (3, 1), 273: (4, 8), 277: (3, 1)}
        tags |= {278: (4, 64), 279: (4, 4096)}
        size = 6 + 12 * len(tags)
        made.append(_ifd(tags, at + size if number < count - 1 else 0))
        at += size
    return b"".join(made)


def huge_tile(side: int) -> bytes:
    """A TIFF of 100 x 100 pixels in one deflated tile of ``side`` x ``side`` pixels of 16 bits."""
    body = zlib.compress(bytes(1 << 20), 9)
    tags = {256: (4, 100), 257: (4, 100), 258: (3, 16), 259: (3, 8), 262: (3, 1), 277: (3, 1)}
    tags |= {322: (4, side), 323: (4, side), 324: (4, 8), 325: (4, len(body))}
    start = 8 + len(body)
    return b"II*\0" + struct.pack("<I", start) + body + _ifd(tags, 0)


def progressive_in_tiff(scans: int, side: int) -> bytes:
    """A TIFF whose one strip is :func:`progressive`."""
    body = progressive(scans, side)
    tags = {256: (4, side), 257: (4, side), 258: (3, 8), 259: (3, 7), 262: (3, 6), 277: (3, 3)}
    tags |= {273: (4, 8), 278: (4, side), 279: (4, len(body))}
    start = 8 + len(body)
    return b"II*\0" + struct.pack("<I", start) + body + _ifd(tags, 0)


def _dicom(syntax: str, uid: str) -> tuple[Dataset, FileMetaDataset]:
    dataset, meta = Dataset(), FileMetaDataset()
    dataset.SOPClassUID = meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    dataset.SOPInstanceUID, meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = "1.2.3", uid, syntax
    dataset.Modality, dataset.PhotometricInterpretation = "XC", "RGB"
    dataset.SamplesPerPixel, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 3, 8, 8, 7
    dataset.PixelRepresentation = dataset.PlanarConfiguration = 0
    dataset.Rows = dataset.Columns = 64
    return dataset, meta


def hidden_deflate(size: int) -> bytes:
    """A deflated DICOM data set of so many bytes whose transfer syntax stands behind 3,000 bytes of a UID."""
    dataset, meta = _dicom(DeflatedExplicitVRLittleEndian, "1.2.3")
    dataset.PixelData = bytes(64 * 64 * 3)
    plain, whole = io.BytesIO(), io.BytesIO()
    dataset.file_meta = meta
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(plain, enforce_file_format=True)
    inside = plain.getvalue()[144 + int.from_bytes(plain.getvalue()[140:144], "little") :]
    deflater = zlib.compressobj(9, wbits=-15)
    # Pixel data whose length is that of a bomb.
    inside = inside[: inside.rfind(b"\xe0\x7f\x10\x00") + 8] + struct.pack("<I", size)
    body = deflater.compress(inside)
    body += deflater.compress(bytes(1 << 16)) + deflater.flush(zlib.Z_FULL_FLUSH)  # from which on all are alike
    body += (deflater.compress(bytes(1 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH)) * (size >> 20)
    body += deflater.flush()
    elements = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 2) + b"\0\1"
    for element, value in (
        (2, dataset.SOPClassUID),
        (3, "1." * 1500 + "1"),
        (0x10, DeflatedExplicitVRLittleEndian),
    ):
        padded = value.encode() + bytes(len(value) % 2)
        elements += struct.pack("<HH2sH", 2, element, b"UI", len(padded)) + padded
    whole.write(bytes(128) + b"DICM" + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(elements)) + elements + body)
    return whole.getvalue()


def deep_png(height: int, width: int) -> bytes:
    """A PNG of 16 bits a sample that is what it says."""
    wide = skin(height, width).astype(np.uint16) * 257
    return bytes(cv2.imencode(".png", wide, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def jpeg2000(height: int, width: int) -> bytes:
    """A JPEG 2000 code stream without loss that is what it says."""
    return bytes(imagecodecs.jpeg2k_encode(skin(height, width), level=0, codecformat="j2k", reversible=True))


def few_tiles(side: int) -> bytes:
    """A JPEG 2000 code stream of ``side`` x ``side`` pixels in tiles of 64 x 64, of which it has the first one."""
    stream = bytearray(jpeg2000(64, 64))
    struct.pack_into(">II", stream, 8, side, side)
    return bytes(stream)


def decoy_jp2(side: int) -> bytes:
    """A JP2 file whose header says 64 x 64 pixels, and whose code stream says ``side`` x ``side``."""
    stream = bytearray(imagecodecs.jpeg2k_encode(skin(64, 64), level=0, codecformat="jp2", reversible=True))
    at = stream.find(b"\xff\x4f\xff\x51")
    struct.pack_into(">II", stream, at + 8, side, side)
    struct.pack_into(">II", stream, at + 24, side, side)  # one tile
    return bytes(stream)


def decoy_dicom(side: int) -> bytes:
    """A DICOM file of 64 x 64 pixels whose JP2 stream has a decoy of that size before its real header."""
    stream = bytearray(decoy_jp2(side))
    small = imagecodecs.jpeg2k_encode(skin(64, 64), level=0, codecformat="j2k", reversible=True)[:200]
    box = struct.pack(">I4s16s", 24 + len(small), b"uuid", b"0123456789abcdef") + small
    first = 12  # the signature box
    dataset, meta = _dicom(JPEG2000, "1.2.3")
    dataset.PhotometricInterpretation = "YBR_RCT"
    dataset.PixelData = encapsulate([bytes(stream[:first]) + box + bytes(stream[first:])])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = meta
    made = io.BytesIO()
    dataset.save_as(made, enforce_file_format=True)
    return made.getvalue()


def overlapping_zip(members: int, size: int) -> bytes:
    """A zip whose members all are the same bytes of it."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        chance = np.random.default_rng(1).integers(0, 256, size // 64, np.uint8).tobytes()
        archive.writestr("0000000.jpg", b"\xff\xd8\xff" + chance + bytes(size - len(chance)))
    whole = made.getvalue()
    begin = whole.rfind(b"PK\x01\x02")
    end = whole.rfind(b"PK\x05\x06")
    entry = whole[begin:end]
    name = entry.find(b"0000000.jpg")
    entries = b"".join(entry[:name] + b"%07d.jpg" % n + entry[name + 11 :] for n in range(members))
    tail = struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, members, members, len(entries), begin, 0)
    return whole[:begin] + entries + tail


def merge_bomb(levels: int) -> bytes:
    """YAML whose merge keys come to ten to the power of ``levels`` keys."""
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(10)) + "}"]
    for level in range(1, levels + 1):
        lines.append(f"a{level}: &a{level}\n  <<: [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines).encode()


def alias_bomb(levels: int) -> bytes:
    """YAML whose lists come to ten to the power of ``levels`` values."""
    lines = ["- &a0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"- &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels + 1)]
    return "\n".join(lines).encode()


IMAGES: dict[str, Callable[[], bytes]] = {
    "progressive JPEG, 2,000 scans, 64 megapixels": lambda: progressive(2_000, 8_000),
    "progressive JPEG, 200 scans, 64 megapixels": lambda: progressive(200, 8_000),
    "TIFF of 32,000 directories": lambda: directories(32_000),
    "TIFF of 100 x 100 pixels in a tile of 60,000 x 60,000": lambda: huge_tile(60_000),
    "DICOM that hides that it is deflated, 4 GB inside": lambda: hidden_deflate(4_000 << 20),
    "JP2 that says 64 x 64, code stream of 40,000 x 40,000": lambda: decoy_jp2(40_000),
    "DICOM of 64 x 64 with a decoy, JPEG 2000 of 40,000 x 40,000": lambda: decoy_dicom(40_000),
    "JPEG 2000 of 24 megapixels, right": lambda: jpeg2000(4_000, 6_000),
    "PNG of 16 bits and 120 megapixels, right": lambda: deep_png(10_000, 12_000),
}
"""By what they are; the two last ones are right."""
