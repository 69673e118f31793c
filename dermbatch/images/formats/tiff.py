"""TIFF files: which of their pictures is meant, and samples that Pillow would truncate or refuse (TIFF 6.0).

tifffile parses a file's structure and, with imagecodecs, decodes every arrangement of samples: deep ones, separate
planes, any opacity. What Pillow reads correctly (8 bits) is left to it, by the number of the page.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from dermbatch.errors import BadInput
from dermbatch.images.damage import jpeg_is_damaged
from dermbatch.images.formats.described_profile import primaries_profile
from dermbatch.images.jpegheader import check_scans, read_jpeg_header
from dermbatch.images.pixels import Rgb, adobe_rgb, check_size, in_eight_bits, over_white, to_eight_bit, used_bits

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # oddities become notes or refusals here

_RATIONAL = (5, 10)  # data types
_FULL_RANGE, _LUMA = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0), (0.299, 0.587, 0.114)
_D65 = (0.3127, 0.3290)
_SEPARATED = 5
_MINISWHITE, _GREY, _RGB, _PALETTE, _MASK, _YCBCR, _CFA, _LINEAR_RAW = 0, 1, 2, 3, 4, 6, 32803, 34892
_PILLOW_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946})
_JPEG, _PACKBITS = 7, 32773
_REDUCED, _TRANSPARENCY = 1, 4  # bits of NewSubfileType
_MOST_PAGES = 1000
_JPEGS = frozenset({6, 7})
_MOST_SCANS = 100  # libtiff's own bound, which it does not report
_THUMBNAIL = 0.5
"""Share of the largest picture's sides up to which one of the same proportions counts as its thumbnail."""


@dataclass(frozen=True)
class Picture:
    """The picture of a TIFF file.

    Attributes:
        page: Its number among the file's pages, from 0; none if Pillow cannot be asked for it.
        kind: What kind of samples it has, in words.
        pixels: uint8 [H, W, 3], not turned; none if Pillow is to decode it.
        orientation: EXIF orientation, 1 to 8.
        profile: ICC profile.
        notes: Conversions that were made.
    """

    page: int | None
    kind: str
    pixels: Rgb | None = None
    orientation: int = 1
    profile: bytes | None = None
    notes: tuple[str, ...] = ()

    def unknown(self) -> BadInput:
        """The refusal if Pillow does not know its samples either."""
        return BadInput(f"this is {self.kind}", reason="unsupported_format")


def read_tiff(data: bytes, max_pixels: int) -> Picture:
    """Find the picture of a TIFF file, and decode it where Pillow cannot.

    Args:
        data: The whole file.
        max_pixels: Larger pictures are refused.

    Raises:
        BadInput: ``multi_frame``, ``unsupported_format``, ``too_large``, ``too_small``, ``truncated``.
        Exception: Anything that tifffile raises on a damaged file.
    """
    if data[8:10] == b"CR":  # Canon's, whose raw data claim to be plain JPEG
        _refuse("a camera's raw file (CR2); develop it, and save it as 8 or 16 bit TIFF or JPEG")
    with TiffFile(BytesIO(data)) as file:
        _check_stack(file)
        pages = list(_pages(file))
        page = _chosen(pages)
        height, width = page.imagelength, page.imagewidth
        check_size(height, width, max_pixels)
        number = next((index for index, one in enumerate(file.pages) if one is page), None)
        stated: Any = page.bitspersample  # tifffile calls it an int
        depths = stated if isinstance(stated, tuple) else (stated,)
        bits = max(depths)
        _check_pieces(page, bits if len(set(depths)) == 1 else 1, data)
        if len(set(depths)) > 1:
            _refuse(
                f"a TIFF file of samples of {', '.join(map(str, depths))} bits; save it with 8 or 16 bits each"
            )
        _check_colours(page, bits)
        if int(page.compression) in _JPEGS:
            for at, size in zip(page.dataoffsets, page.databytecounts, strict=False):
                check_scans(data[at : at + size], read_jpeg_header(data[at : at + size]), _MOST_SCANS)
        kind, side, profile = _describe(page, bits), _orientation(file, page), _profile(page)
        if number is not None and _is_for_pillow(page, bits):
            return Picture(number, kind, orientation=side, profile=profile)
        notes: list[str] = []
        pixels = _decoded(page, bits, notes)
        return Picture(number, kind, pixels, side, profile, tuple(notes))


def _is_for_pillow(page: TiffPage, bits: int) -> bool:
    """Whether Pillow reads a picture correctly: 8 bits or fewer, and no samples besides the colours."""
    compression = int(page.compression)
    if bits > 8 or _is_low_palette(page) or page.sampleformat not in (None, 1):
        return False
    grey = int(page.photometric) in (_MINISWHITE, _GREY)
    more = page.samplesperpixel > (1 if grey else 3) and (grey or int(page.photometric) == _RGB)
    odd = (int(page.photometric) == _RGB and bits < 8) or (grey and bits not in (1, 2, 4, 8))
    if (more and compression not in _JPEGS) or (odd and compression == 1):
        return False
    return compression in _PILLOW_COMPRESSIONS - ({_PACKBITS} if _is_usual(page, bits) else set())


def _check_stack(file: TiffFile) -> None:
    """Refuse several pictures under one directory: ImageJ stacks, volumes, and microscope files.

    Raises:
        BadInput: ``multi_frame``.
    """
    if not file.pages:
        return
    first = file.pages.first
    told = (file.imagej_metadata or {}).get("images", 1)
    planes = (file.stk_metadata or {}).get("NumberPlanes", 1) if file.is_stk else 1
    depth = max(int(getattr(first, "imagedepth", 1) or 1), 1)
    count = max((one for one in (told, planes, depth) if isinstance(one, int)), default=1)
    if count > len(file.pages):
        raise _several(count)


def _check_colours(page: TiffPage, bits: int) -> None:
    """Refuse colours that decoders would misinterpret (TIFF 6.0, sections 3, 16, 20 and 21).

    Raises:
        BadInput: ``unsupported_format``, ``corrupt``.
    """
    space = int(page.photometric)
    coded = int(page.compression) in _JPEGS
    if 262 not in page.tags:
        raise BadInput(
            "PhotometricInterpretation (262) of the TIFF file is missing, so that nothing says which colours its "
            "samples are; re-save the picture",
            reason="corrupt",
        )
    if space == _YCBCR and int(page.compression) == 1 and bits == 8:
        _check_whole(page)
    if (
        space == _YCBCR
        and not coded
        and not (_is_default(page, 532, _FULL_RANGE) and _is_default(page, 529, _LUMA))
    ):
        _refuse("a TIFF file of YCbCr colours of another range or weights than usual; save it as RGB")
    if space == _SEPARATED and not (_is_default(page, 332, (1,)) and _is_default(page, 336, (0, 255))):
        _refuse("a TIFF file of other inks than CMYK, or of inverted ones; save it as RGB")


def _is_default(page: TiffPage, tag: int, usual: tuple[float, ...]) -> bool:
    """Whether a tag is missing or has its usual values, possibly repeated."""
    values = _numbers(page, tag)
    several = usual * (len(values) // len(usual) or 1)
    return not values or (
        len(values) == len(several) and all(abs(a - b) < 0.01 for a, b in zip(values, several, strict=True))
    )


def _numbers(page: TiffPage, tag: int) -> list[float]:
    """The numbers in a tag; rational ones as quotients."""
    if tag not in page.tags:
        return []
    value = page.tags[tag].value
    values = list(value) if isinstance(value, tuple) else [value]
    if int(page.tags[tag].dtype) in _RATIONAL:
        return [a / b if b else 0.0 for a, b in zip(values[::2], values[1::2], strict=False)]
    return [float(one) for one in values if isinstance(one, (int, float))]


def _profile(page: TiffPage) -> bytes | None:
    """The ICC profile; else Adobe RGB's if EXIF states it, or that of stated primaries (TIFF 6.0, section 20)."""
    if page.iccprofile:
        return bytes(page.iccprofile)
    photo, other = (page.tags[tag].value if tag in page.tags else {} for tag in (34665, 40965))
    photo, other = (one if isinstance(one, dict) else {} for one in (photo, other))
    inner = photo.get("InteroperabilityTag")
    index = str((other or (inner if isinstance(inner, dict) else {})).get("InteroperabilityIndex", ""))
    if index.strip("\0 ") == "R03" or photo.get("ColorSpace") == 2:
        return adobe_rgb()
    primaries, white = _numbers(page, 319), _numbers(page, 318)
    if int(page.photometric) != _RGB or len(primaries) != 6:
        return None
    return primaries_profile((*(white if len(white) == 2 else _D65), *primaries))


def _is_usual(page: TiffPage, bits: int) -> bool:
    return bits == 8 and int(page.photometric) in (_MINISWHITE, _GREY, _RGB)


def _check_pieces(page: TiffPage, bits: int, data: bytes) -> None:
    """Refuse a picture with missing, empty or short strips or tiles: decoders fill them with anything.

    Raises:
        EOFError: If one extends beyond the file.
        BadInput: ``corrupt``.
    """
    pieces = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if max((at + size for at, size in pieces), default=0) > len(data):
        raise EOFError
    row = -(-page.imagewidth * page.samplesperpixel * bits // 8)
    short = int(page.compression) == 1 and int(page.photometric) != _YCBCR
    short = short and sum(size for _, size in pieces) < page.imagelength * row
    if len(pieces) < math.prod(page.chunked) or not all(at and size for at, size in pieces) or short:
        _damaged("strips or tiles of the TIFF file's picture are missing, or shorter than they must be")
    if int(page.compression) == _JPEG and any(_is_damaged(page, data[at : at + size]) for at, size in pieces):
        _damaged("coded data of a strip or tile of the TIFF file do not fit it: a part of it is damaged")


def _is_damaged(page: TiffPage, piece: bytes) -> bool:
    """Whether a strip or tile that is a JPEG picture is damaged; its tables may be stored apart (TIFF TN 2)."""
    tables: bytes = page.jpegtables or b""
    whole = tables.removesuffix(b"\xff\xd9") + piece[2:] if tables else piece
    header = read_jpeg_header(whole)
    return header is not None and jpeg_is_damaged(whole, len(header.ids))


def _damaged(what: str) -> NoReturn:
    raise BadInput(f"{what}; copy the file again, or re-save the picture", reason="corrupt")


def _check_whole(page: TiffPage) -> None:
    """Refuse sub-sampled colours without a coding that combines them: Pillow would call the picture truncated."""
    if sum(page.databytecounts) < page.imagelength * page.imagewidth * 3 and page.subsampling != (1, 1):
        _refuse("a TIFF file of sub-sampled YCbCr colours without compression; save it as RGB")


def _is_low_palette(page: TiffPage) -> bool:
    """Whether a 16-bit palette (TIFF 6.0, section 5) uses only the low byte; unshifted it would be black."""
    colours = page.colormap if int(page.photometric) == _PALETTE else None
    return colours is not None and used_bits(np.asarray(colours), 16) < 16


def _pages(file: TiffFile) -> Iterable[TiffPage]:
    """All pictures of a file, those in sub-directories after their page."""
    if file.pages and "DNGVersion" in file.pages.first.tags:
        _refuse("a camera's raw file (DNG); develop it, and save it as 8 or 16 bit TIFF or JPEG")
    for number, page in enumerate(file.pages):
        if number >= _MOST_PAGES:
            return
        if isinstance(page, TiffPage):
            yield page
            for below in page.pages or ():
                if isinstance(below, TiffPage):
                    yield below


def _chosen(pages: list[TiffPage]) -> TiffPage:
    """The full picture; smaller copies of it do not count as other pages, whatever they claim to be.

    Raises:
        BadInput: ``multi_frame`` if there are several, ``unsupported_format`` for a camera's raw data.
    """
    if not pages:
        raise BadInput("the TIFF file holds no picture", reason="corrupt")
    largest = max(pages, key=_area)
    if int(largest.photometric) in (_CFA, _LINEAR_RAW):
        _refuse("a camera's raw file; develop it, and save it as 8 or 16 bit TIFF or JPEG")
    full = [page for page in pages if page is largest or not (page.subfiletype & (_REDUCED | _TRANSPARENCY))]
    others = [page for page in full if page is not largest and not _is_copy(page, largest)]
    if others:
        raise _several(len(others) + 1)
    return largest


def _several(count: int) -> BadInput:
    return BadInput(f"the file holds {_count(count)} pages; save each as a file of its own", reason="multi_frame")


def _count(pages: int) -> str:
    return f"{pages:,}" if pages < _MOST_PAGES else f"{_MOST_PAGES:,} or more"


def _area(page: TiffPage) -> int:
    return page.imagelength * page.imagewidth * (int(page.photometric) != _MASK)


def _is_copy(page: TiffPage, full: TiffPage) -> bool:
    """Whether a page is, judged by its sides, a smaller copy of another page, or is a mask over it."""
    if int(page.photometric) == _MASK:
        return True
    across, down = page.imagewidth / full.imagewidth, page.imagelength / full.imagelength
    rounding = 1 / min(page.imagewidth, page.imagelength)
    return max(across, down) <= _THUMBNAIL and abs(across - down) <= 0.03 + rounding


def _orientation(file: TiffFile, page: TiffPage) -> int:
    """The page's own orientation, or that of the page whose sub-directory it is in."""
    above = next((one for one in file.pages if isinstance(one, TiffPage) and page in (one.pages or ())), page)
    value = next((one.tags[274].value for one in (page, above) if 274 in one.tags), 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decoded(page: TiffPage, bits: int, notes: list[str]) -> Rgb:
    """Samples as uint8 RGB."""
    space = int(page.photometric)
    too_few = bits == 1 and space == _RGB
    if (
        page.sampleformat not in (None, 1)
        or bits > 16
        or too_few
        or space not in (_MINISWHITE, _GREY, _RGB, _PALETTE)
    ):
        _refuse(_describe(page, bits))
    samples = _samples(page)
    shape = page.imagelength, page.imagewidth, page.samplesperpixel
    planes_apart = int(page.planarconfig or 1) == 2 and page.samplesperpixel > 1
    samples = np.moveaxis(samples.reshape(shape[2], *shape[:2]), 0, -1) if planes_apart else samples.reshape(shape)
    if space == _PALETTE:
        return _by_palette(page, samples, notes)
    colours = 3 if space == _RGB else 1
    if samples.shape[2] < colours:
        raise ValueError("too few samples")
    eight = in_eight_bits(samples, bits, notes)
    shown, rest = eight[..., :colours], eight[..., colours:]
    if space == _MINISWHITE:
        shown = np.asarray(255 - shown, np.uint8)
    if colours == 1:
        notes.append("from_grey")
        shown = np.repeat(shown, 3, axis=2)
    return _opaque(np.ascontiguousarray(shown), rest, tuple(int(kind) for kind in page.extrasamples or ()), notes)


def _samples(page: TiffPage) -> NDArray[Any]:
    """A picture's samples, arranged as tifffile does."""
    unknown = page.compression not in _known_compressions()
    try:
        if not unknown:
            return np.asarray(page.asarray(maxworkers=1))
    except ValueError as error:
        if not str(error).startswith("COMPRESSION."):  # all that tifffile says of one it cannot undo
            raise
    scheme = f"{_name(page.compression)} ({int(page.compression)})"
    _refuse(f"a TIFF file compressed by {scheme}; save it with LZW, Deflate or none")


def _opaque(rgb: Rgb, rest: Rgb, kinds: tuple[int, ...], notes: list[str]) -> Rgb:
    """Laid over white if an extra sample is opacity (1 associated, 2 not); other kinds are ignored."""
    at, kind = next(((at, kind) for at, kind in enumerate(kinds[: rest.shape[2]]) if kind in (1, 2)), (0, 0))
    if not kind:
        if rest.shape[2]:
            notes.append("extra_samples_dropped")
        return rgb
    notes.append("from_rgba")
    alpha = np.ascontiguousarray(rest[..., at])
    if kind == 2 or not alpha.any():
        return over_white(rgb, alpha)
    return np.asarray(
        np.minimum(rgb.astype(np.uint16) + (255 - alpha.astype(np.uint16))[..., None], 255), np.uint8
    )


def _by_palette(page: TiffPage, samples: NDArray[Any], notes: list[str]) -> Rgb:
    notes.append("from_palette")
    colours = np.asarray(page.colormap)  # [3, N], 16 bits
    used = used_bits(colours, 16)
    if used < 16:
        notes.append("corrected_palette")
    table = to_eight_bit(colours, used).T
    return np.ascontiguousarray(table[np.minimum(samples[..., 0], len(table) - 1)])


def _known_compressions() -> Any:
    from tifffile.tifffile import TIFF  # noqa: PLC0415 - a table that only odd files need

    return TIFF.DECOMPRESSORS


def _describe(page: TiffPage, bits: int) -> str:
    kinds = {2: "signed integers", 3: "floating point numbers", 5: "complex integers", 6: "complex numbers"}
    kind = kinds.get(page.sampleformat or 1, f"integers of {bits} bits")
    return f"a TIFF file of {kind} in {_name(page.photometric)} colours; save it as 8 or 16 bit grey or RGB"


def _name(value: object) -> str:
    return str(getattr(value, "name", value))


def _refuse(what: str) -> NoReturn:
    raise BadInput(f"this is {what}", reason="unsupported_format")
