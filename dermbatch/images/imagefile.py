"""Image files: of what type they are, and their pixels. The content decides, not the name.

Ordinary JPEG files go through libjpeg-turbo's own interface, as fast as OpenCV and as strict as possible; PNG with
16-bit samples goes through OpenCV, because Pillow does not keep them; TIFF files are examined first by tifffile,
which also decodes deep ones; everything else (alpha, palettes, CMYK, odd files) goes through Pillow.
"""

from __future__ import annotations

from io import BytesIO
from typing import Protocol

from PIL import Image, UnidentifiedImageError

from dermbatch.bounded.limits import out_of_memory
from dermbatch.errors import BadInput
from dermbatch.images.damage import check_is_binary, jpeg_pixels
from dermbatch.images.dicomfile import read_dicom
from dermbatch.images.formats.chunks import chunks_fit
from dermbatch.images.formats.coded import (
    check_process,
    is_odd,
    is_odd_jpeg2000,
    named_rgb,
    odd_jpeg,
    odd_jpeg2000,
)
from dermbatch.images.formats.described_profile import described_profile
from dermbatch.images.formats.exif import exif_of, exif_profile, orientation, told_by_jpeg, turned
from dermbatch.images.formats.opened import by_pillow, png_pixels
from dermbatch.images.formats.origin import is_said_synthetic
from dermbatch.images.jpegheader import (
    JpegHeader,
    check_scans,
    check_tiles,
    is_followed_by_another,
    jpeg_is_complete,
    read_jpeg2000_header,
    read_jpeg_header,
)
from dermbatch.images.pixels import MIN_SIDE, Rgb, SourceImage, check_size, says_memory, to_srgb
from dermbatch.images.quiet import quiet

__all__ = ["MIN_SIDE", "SUPPORTED", "SourceImage", "read_image", "sniff"]

# Sizes are checked against our own limit before anything is decoded; Pillow's warning would be a second one.
Image.MAX_IMAGE_PIXELS = None

DICOM = "application/dicom"
_PNG = b"\x89PNG\r\n\x1a\n"
_PILLOW = {
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/tiff": ("TIFF",),
    "image/bmp": ("BMP",),
    "image/webp": ("WEBP",),
    "image/gif": ("GIF",),
    "image/jp2": ("JPEG2000",),
    "image/avif": ("AVIF",),
    "image/heic": ("HEIF",),
}
_NAMES = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/webp": "WebP",
    "image/gif": "GIF",
    "image/jp2": "JPEG 2000",
    "image/avif": "AVIF",
    "image/heic": "HEIC",
}
SUPPORTED = frozenset(_PILLOW) - {"image/gif"} | {DICOM}
"""The media types that `read_image` takes."""

MODULES = ("dermbatch.images.imagefile", "dermbatch.images.formats.tiff", "imagecodecs", "pi_heif")
"""Modules that a process needs to read images."""


class Decode(Protocol):
    """A decoder of image files: :func:`read_image`, in this process or another."""

    def __call__(self, data: bytes, *, max_pixels: int, frame: int | None = None) -> SourceImage:
        """As :func:`read_image`."""


_SIGNATURES = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (_PNG, "image/png"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"PK\x03\x04", "application/zip"),
    (b"PK\x05\x06", "application/zip"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "image/jp2"),
    (b"\xff\x4f\xff\x51", "image/jp2"),
    (b"\xff\x0a", "image/jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "image/jxl"),
    (b"%PDF-", "application/pdf"),
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_AVIF = (b"avif", b"avis")
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# The first elements of a data set without preamble: of the file meta group, or of group 0008.
_FIRST_ELEMENTS = (0x0000, 0x0001, 0x0005, 0x0008, 0x0012, 0x0016, 0x0018)
_EXPLICIT_VRS = (b"UL", b"CS", b"UI", b"DA", b"OB", b"SH", b"LO")


def sniff(head: bytes) -> str | None:
    """The media type of a file by its first 256 bytes; None if it is not known.

    Known are the supported types, and some that are recognised only to be named in a refusal: GIF, JPEG XL, PDF,
    zip.
    """
    if head[128:132] == b"DICM":
        return DICOM
    for signature, media_type in _SIGNATURES:
        if head.startswith(signature):
            return media_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "image/bmp"
    if head[4:8] == b"ftyp":
        return _by_brands(head)
    return DICOM if _is_bare_dicom(head) else None


def _by_brands(head: bytes) -> str | None:
    """AVIF or HEIC by the brands of an ISO base media file (ISO/IEC 23008-12); ``mif1`` alone may be either."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
    if brands.intersection(_AVIF):
        return "image/avif"
    return "image/heic" if brands.intersection(_HEIF) else None


def _is_bare_dicom(head: bytes) -> bool:
    """A DICOM data set without preamble, as some older exports are."""
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    if len(head) < 16 or (group, element) == (0, 0) or group not in (2, 8) or element not in _FIRST_ELEMENTS:
        return False
    length = int.from_bytes(head[4:8], "little")
    return head[4:6] in _EXPLICIT_VRS or (group == 8 and 0 < length <= 128 and length % 2 == 0)


def read_image(data: bytes, *, max_pixels: int, frame: int | None = None) -> SourceImage:
    """Decode an image file: JPEG, PNG, TIFF, BMP, WebP, HEIC, AVIF, JPEG 2000 or DICOM.

    Args:
        data: The whole file.
        max_pixels: Larger images are refused because of their header, before they are decoded.
        frame: Which frame of a multi-frame DICOM file, from 1; none for all other files.

    Raises:
        BadInput: With one of the reasons ``empty_file``, ``not_an_image``, ``unsupported_format``, ``truncated``,
            ``corrupt``, ``too_small``, ``too_large``, ``animated``, ``multi_frame``, and for DICOM
            ``not_a_skin_image``, ``no_pixel_data``, ``unsupported_transfer_syntax``.
    """
    if not data:
        raise BadInput("the file is empty; copy it again", reason="empty_file")
    check_is_binary(data)
    media_type = sniff(data[:256])
    if media_type is None:
        raise BadInput(
            "the content is no image of a known type, whatever the name says; JPEG, PNG, TIFF, BMP, WebP, HEIC, "
            "AVIF, JPEG 2000 and DICOM are taken",
            reason="not_an_image",
        )
    if media_type == DICOM:
        return read_dicom(data, max_pixels=max_pixels, frame=frame)
    if media_type == "application/zip":
        raise BadInput(
            "the file is a zip archive by its content, whatever its name says; call it .zip, or unpack it",
            reason="unsupported_format",
        )
    if media_type not in _PILLOW:
        raise BadInput(
            f"files of type {media_type} are not taken as images; convert it to JPEG, PNG or TIFF",
            reason="unsupported_format",
        )
    with quiet():
        try:
            return _read_raster(data, media_type, max_pixels)
        except BadInput:
            raise
        except MemoryError:
            raise out_of_memory() from None
        except Exception as error:  # decoders fail on untrusted files in every possible way
            if says_memory(error):
                raise out_of_memory() from None
            raise _broken(data, media_type, error) from error


def _read_raster(data: bytes, media_type: str, max_pixels: int) -> SourceImage:
    """Header first, then the pixels by the fastest decoder that gets them right."""
    if media_type == "image/tiff":
        return _read_tiff(data, max_pixels)
    header = read_jpeg_header(data) if media_type == "image/jpeg" else None
    if header is not None:
        check_scans(data, header)
        check_process(header)
        if is_odd(header):
            return _read_odd_jpeg(data, header, max_pixels)
    if media_type == "image/jp2":
        check_tiles(data)
        if is_odd_jpeg2000(data):
            return _read_odd_jpeg2000(data, max_pixels)
    if media_type == "image/heic":
        from pi_heif import register_heif_opener  # noqa: PLC0415 - not every command pays for what few files need

        register_heif_opener()
    with Image.open(BytesIO(data), formats=_PILLOW[media_type]) as image:
        width, height = image.size
        _check_single(image, media_type)
        check_size(height, width, max_pixels)
        exif = exif_of(image, data, media_type)
        side = orientation(exif)
        notes = ["exif_rotated"] if side != 1 else []
        if is_said_synthetic(image.info):
            notes.append("synthetic")
        profile = image.info.get("icc_profile") or exif_profile(exif) or described_profile(data, media_type)
        pixels = _pixels(image, data, header, profile, notes)
    if media_type == "image/jpeg" and is_followed_by_another(data):
        notes.append("other_pictures_left_out")
    return _upright(pixels, side, profile, notes, media_type)


def _pixels(
    image: Image.Image, data: bytes, header: JpegHeader | None, profile: bytes | None, notes: list[str]
) -> Rgb:
    """The pixels of an opened file, by the decoder that gets it right; conversions are noted."""
    if header is not None and image.mode in ("RGB", "L") and jpeg_is_complete(data):
        pixels = jpeg_pixels(data)
        if image.mode == "L":
            notes.append("from_grey")
        if header.has_rgb_ids and header.decoded_as_ycbcr:
            pixels = named_rgb(data)
    elif data.startswith(_PNG):
        pixels = png_pixels(image, data, profile, notes)
    else:
        pixels = None
    if pixels is not None:
        return pixels
    no_marker = header is not None and image.mode == "CMYK" and header.adobe_transform is None
    return by_pillow(image, profile, notes, no_marker=no_marker)


def _read_tiff(data: bytes, max_pixels: int) -> SourceImage:
    """The full picture of a TIFF file, by tifffile or by Pillow."""
    from dermbatch.images.formats.tiff import read_tiff  # noqa: PLC0415 - as above

    found = read_tiff(data, max_pixels)
    notes, profile = list(found.notes), found.profile
    if found.pixels is not None:
        if found.orientation != 1:
            notes.insert(0, "exif_rotated")
        return _upright(found.pixels, found.orientation, profile, notes, "image/tiff")
    try:
        image = Image.open(BytesIO(data), formats=_PILLOW["image/tiff"])
        image.seek(found.page or 0)
    except (UnidentifiedImageError, SyntaxError):
        raise found.unknown() from None
    with image:
        image.info.pop("xmp", None)  # Pillow would turn the picture because of it; see exif_of
        if found.orientation != 1:
            notes.append("exif_rotated")
        pixels = by_pillow(image, profile, notes)  # which also turns the picture
    return _upright(pixels, 1, profile, notes, "image/tiff")


def _read_odd_jpeg(data: bytes, header: JpegHeader, max_pixels: int) -> SourceImage:
    """A JPEG file that Pillow cannot open."""
    check_size(header.height, header.width, max_pixels)
    if not jpeg_is_complete(data):
        raise EOFError
    notes: list[str] = []
    pixels = odd_jpeg(data, header, notes)
    if is_followed_by_another(data):
        notes.append("other_pictures_left_out")
    side, profile = told_by_jpeg(data)
    return _upright(pixels, side, profile, (["exif_rotated"] if side != 1 else []) + notes, "image/jpeg")


def _read_odd_jpeg2000(data: bytes, max_pixels: int) -> SourceImage:
    """A JPEG 2000 file that Pillow shows wrongly."""
    header = read_jpeg2000_header(data)
    if header is None:
        raise EOFError
    check_size(header.height, header.width, max_pixels)
    notes: list[str] = []
    pixels = odd_jpeg2000(data, notes)
    return _upright(pixels, 1, described_profile(data, "image/jp2"), notes, "image/jp2")


def _upright(pixels: Rgb, side: int, profile: bytes | None, notes: list[str], media_type: str) -> SourceImage:
    """Pixels converted to sRGB and turned upright."""
    if profile and "from_cmyk" not in notes:
        converted = to_srgb(pixels, profile, grey="from_grey" in notes)
        if converted is not None:
            pixels = converted
            notes.append("from_icc")
    return SourceImage(turned(pixels, side), media_type, None, tuple(dict.fromkeys(notes)))


def _check_single(image: Image.Image, media_type: str) -> None:
    """Refuse animations and files with several pictures."""
    frames = getattr(image, "n_frames", 1) if media_type != "image/jpeg" else 1
    if media_type == "image/heic" and frames > 1:
        raise BadInput(
            f"the file holds {frames} pictures; save each as a file of its own",
            reason="multi_frame",
        )
    if frames > 1:
        raise BadInput(
            f"the file is an animation of {frames} frames; save the wanted one as JPEG or PNG",
            reason="animated",
        )
    if media_type == "image/gif":
        raise BadInput(
            "GIF files hold at most 256 colours and are not taken; give the original as JPEG or PNG",
            reason="unsupported_format",
        )


def _is_complete(data: bytes, media_type: str) -> bool:
    """Whether the end of the picture is there.

    OpenCV may return a half-grey picture for a truncated JPEG file (depending on its version); Pillow never does.
    """
    if media_type == "image/jpeg":
        return jpeg_is_complete(data)
    if media_type == "image/png":
        return chunks_fit(data)
    if media_type == "image/webp":
        return int.from_bytes(data[4:8], "little") + 8 <= len(data)
    if media_type == "image/bmp":
        return int.from_bytes(data[2:6], "little") <= len(data)
    return True


def _broken(data: bytes, media_type: str, error: Exception) -> BadInput:
    """The refusal of a file that starts like an image but cannot be read."""
    message, name = str(error).lower(), _NAMES.get(media_type, "picture")
    if not _is_complete(data, media_type) or "truncated" in message or isinstance(error, EOFError):
        return BadInput(f"the {name} file ends before its picture does; copy it again", reason="truncated")
    if media_type == "image/bmp" and message.startswith("unsupported"):
        return BadInput(
            "this is a BMP file with samples of an unusual layout or compression; save it as PNG",
            reason="unsupported_format",
        )
    if isinstance(error, UnidentifiedImageError):
        return BadInput(
            f"the file begins as a {name} file, and its header cannot be read: it is damaged; copy it again, or "
            "re-save the picture",
            reason="corrupt",
        )
    return BadInput(
        f"the picture of the {name} file cannot be decoded: it is damaged; copy it again, or re-save the picture",
        reason="corrupt",
    )
