"""DICOM files of skin: their pixels as displayed.

Real exports require tolerance: UIDs and texts in literal quotation marks, missing preambles and odd spacing values
are accepted. No message and no log line quotes a value of a header.
"""

from __future__ import annotations

from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from dermbatch.bounded.limits import out_of_memory
from dermbatch.errors import BadInput
from dermbatch.images.damage import jpegls_is_damaged, strictly_decoded
from dermbatch.images.dicom.agreement import settle, uid_name
from dermbatch.images.dicom.fragments import frame_places, joined, picture_of
from dermbatch.images.dicom.header import element, refuted
from dermbatch.images.dicom.native import is_lying, is_unsigned, settle_samples, within_bits
from dermbatch.images.dicom.palette import coloured
from dermbatch.images.dicom.proportions import proportions
from dermbatch.images.dicom.reading import parse, truncated
from dermbatch.images.dicompolicy import check_is_skin, number, text
from dermbatch.images.jpegheader import (
    JPEG_LS,
    JpegHeader,
    begins_jpeg2000,
    check_scans,
    check_tiles,
    jpeg_end,
    read_jpeg2000_header,
    read_jpeg_header,
)
from dermbatch.images.pixels import (
    Rgb,
    SourceImage,
    adobe_rgb,
    check_size,
    in_eight_bits,
    opencv_decode,
    says_memory,
    to_srgb,
)
from dermbatch.images.quiet import quiet

MEDIA_TYPE = "application/dicom"


def read_dicom(data: bytes, *, max_pixels: int, frame: int | None = None) -> SourceImage:
    """Decode a DICOM file with one photographic frame, or one frame of several.

    Args:
        data: The whole file, with or without preamble.
        max_pixels: Larger images are refused because of their header.
        frame: Which frame, from 1 as DICOM counts; none if the file holds a single one.

    Raises:
        BadInput: ``not_a_skin_image``, ``no_pixel_data``, ``multi_frame``, ``too_large``, ``too_small``,
            ``unsupported_transfer_syntax``, ``unsupported_format``, ``truncated``, ``corrupt``.
    """
    with quiet():
        try:
            return _read(data, max_pixels, frame)
        except BadInput:
            raise
        except MemoryError:
            raise out_of_memory() from None
        except EOFError:
            raise truncated() from None
        except Exception:  # readers fail on untrusted files in every possible way
            # Without the cause: its text may quote the header.
            raise BadInput(
                "the DICOM data set is damaged and cannot be parsed; export the image again", reason="corrupt"
            ) from None


def _read(data: bytes, max_pixels: int, frame: int | None) -> SourceImage:
    """From bytes to pixels: data set, policy, size, pixels, colours, spacing."""
    dataset = parse(data)
    check_is_skin(dataset)
    check_has_pixels(dataset, len(data))
    settled = settle(dataset)
    height, width = number(dataset, "Rows", 0), number(dataset, "Columns", 0)
    if height <= 0 or width <= 0:
        raise BadInput(
            f"{element('Rows')} or {element('Columns')} is missing or 0; export the image again", reason="corrupt"
        )
    check_size(height, width, max_pixels)
    _keep_frame(dataset, frame)
    pixels, notes = decode_pixels(dataset, settled=True)
    notes = [*dict.fromkeys([*settled, *notes])]
    profile = dataset.get("ICCProfile")
    if not profile and text(dataset, "ColorSpace").upper() == "ADOBERGB":
        profile = adobe_rgb()
    if isinstance(profile, bytes) and "from_grey" not in notes:
        converted = to_srgb(pixels, profile)
        if converted is not None:
            pixels, notes = converted, [*notes, "from_icc"]
    spacing, aspect, corrections = proportions(dataset)
    return SourceImage(np.ascontiguousarray(pixels), MEDIA_TYPE, spacing, (*notes, *corrections), aspect)


def check_has_pixels(dataset: Dataset, size: int) -> None:
    """Refuse a data set without Pixel Data.

    Args:
        dataset: The data set as read.
        size: Bytes of its file.

    Raises:
        BadInput: ``no_pixel_data``, ``truncated`` where another element runs to the end of the file, or
            ``unsupported_format`` if its pixels are floating point numbers.
    """
    if "PixelData" not in dataset and _is_cut(dataset, size):
        raise BadInput(
            f"the DICOM data set cannot be parsed beyond {_last_known(dataset)}, and {element('PixelData')} is "
            "not found; copy the file again, in binary mode, or export it again",
            reason="truncated",
        )
    for keyword in ("FloatPixelData", "DoubleFloatPixelData"):
        if keyword in dataset and "PixelData" not in dataset:
            raise BadInput(
                f"{element(keyword)} holds floating point numbers, which are not supported; export the picture "
                f"with 8 or 16 bits a sample",
                reason="unsupported_format",
            )
    if not dataset.get("PixelData"):
        fault = "is empty" if "PixelData" in dataset else "is missing"
        raise BadInput(
            f"the DICOM file holds no pixel data: {element('PixelData')} {fault}; export the image again",
            reason="no_pixel_data",
        )


def _keep_frame(dataset: Dataset, frame: int | None) -> None:
    """Keep one frame of several in the data set, as if it were the only one (PS3.5 8.2, A.4)."""
    frames = number(dataset, "NumberOfFrames", 1)
    if frame is None:
        if frames > 1:
            raise BadInput(
                f"{element('NumberOfFrames')}: the file holds several frames, which were not told apart when "
                "it was listed; export them one by one, or with that element",
                reason="multi_frame",
            )
        frame = 1
    if not 1 <= frame <= frames:
        raise BadInput(
            f"{element('NumberOfFrames')}: the file does not hold the requested frame; export the image again",
            reason="corrupt",
        )
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        dataset.PixelData = encapsulate([_body(dataset, frame - 1, frames)])
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # which cover all frames
            dataset.pop(keyword, None)
        return
    if frames == 1:
        return
    size = _uncompressed_size(dataset, text(dataset, "PhotometricInterpretation"))
    if number(dataset, "BitsAllocated", 8) % 8:
        raise BadInput(
            "frames with pixels of less than a byte are not supported; export the image with 8 or 16 "
            "bits a sample",
            reason="unsupported_format",
        )
    body = dataset.PixelData[size * (frame - 1) : size * frame]
    if len(body) < size:
        raise truncated()
    dataset.PixelData = body


def _body(dataset: Dataset, index: int, frames: int) -> bytes:
    """The fragments of one frame, found by where pictures begin, or failing that by the offset table."""
    data = dataset.PixelData
    each = frame_places(data, frames)
    if each:
        return joined(data, each[index])
    offsets = _extended_offsets(dataset)
    return get_frame(data, index, number_of_frames=frames, extended_offsets=offsets)


def _extended_offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    """Extended Offset Table and Lengths (PS3.3 C.7.6.3.1.8), if present."""
    table, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    return (table, lengths) if isinstance(table, bytes) and isinstance(lengths, bytes) else None


def decode_pixels(dataset: Dataset, *, settled: bool = False) -> tuple[Rgb, list[str]]:
    """Pixels uint8 [H, W, 3] of a single-frame data set, and notes on what was converted.

    Args:
        dataset: Changed in place.
        settled: Whether its header has already been brought into agreement with its pixel data.

    Raises:
        BadInput: ``unsupported_transfer_syntax``, ``unsupported_format``, ``truncated``, ``corrupt``.
    """
    dataset.NumberOfFrames = 1
    coded = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    notes = [] if settled and not coded else settle(dataset)  # each compressed frame has a header of its own
    syntax = dataset.file_meta.TransferSyntaxUID
    plugin = _plugin(syntax)
    photometric = text(dataset, "PhotometricInterpretation")
    dataset.PhotometricInterpretation = photometric
    if syntax.is_encapsulated:
        quick = _check_frame(dataset, syntax, photometric)
        if quick is not None:
            return quick, notes
    elif len(dataset.PixelData) < _uncompressed_size(dataset, photometric):
        raise truncated()
    else:
        notes += settle_samples(dataset)
    samples = _decoded(dataset, plugin)
    if syntax == RLELossless and is_lying(samples):
        raise refuted("Rows")
    displayed, more = _displayed(dataset, samples, photometric)
    return displayed, [*notes, *more]


def _decoded(dataset: Dataset, plugin: str) -> NDArray[Any]:
    """Samples as pydicom decodes them, with YCbCr turned into RGB; those of JPEG keep all of their bits."""
    stored = dataset.BitsStored
    if dataset.file_meta.TransferSyntaxUID in JPEGTransferSyntaxes and not dataset.PixelRepresentation:
        dataset.BitsStored = dataset.BitsAllocated  # pydicom would cut them off
    try:
        return pixel_array(dataset, raw=False, decoding_plugin=plugin)
    except (BadInput, MemoryError, EOFError):
        raise
    except Exception as error:  # decoders fail in every possible way
        # Without the cause: its text may quote the header.
        if says_memory(error):
            raise MemoryError from None
        raise BadInput(
            f"{element('PixelData')} cannot be decoded as {uid_name(dataset.file_meta.TransferSyntaxUID)}; the "
            "picture is damaged: export it again",
            reason="corrupt",
        ) from None
    finally:
        dataset.BitsStored = stored


def _plugin(syntax: UID) -> str:
    """Name of the pydicom decoder for a transfer syntax; '' for those that need none.

    GDCM is not used even if it is installed: on some damaged streams it aborts the whole process.
    """
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    there = decoder.available_plugins if decoder is not None else ()
    plugin = next((name for name in ("pylibjpeg", "pydicom", "pillow") if name in there), "")
    if decoder is None or (syntax.is_encapsulated and not plugin):
        raise BadInput(
            f"{element('TransferSyntaxUID')} is not supported; convert the image to JPEG baseline or Explicit "
            f"VR Little Endian",
            reason="unsupported_transfer_syntax",
        )
    return plugin


def _check_frame(dataset: Dataset, syntax: UID, photometric: str) -> Rgb | None:
    """Check an encapsulated frame against the header, and decode it here if libjpeg-turbo does so correctly.

    The frame's own header decides how much memory its decoder takes, so it must agree with the data set.
    """
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    picture = picture_of(frame)
    size: tuple[int, int] | None = None
    header = None
    if syntax in JPEG2000TransferSyntaxes:
        coded = read_jpeg2000_header(picture if begins_jpeg2000(picture) else frame)
        size = None if coded is None else (coded.height, coded.width)
        check_tiles(picture)
    elif syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        header = read_jpeg_header(picture)
        size = None if header is None else (header.height, header.width)
        end = jpeg_end(picture)
        # Zeros behind the end marker are padding.
        if header is not None and end is None and not picture.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise truncated()
        picture = picture[:end]
    else:
        return None
    if size != (dataset.Rows, dataset.Columns):
        raise BadInput(
            f"{element('Rows')} and {element('Columns')} and the compressed picture disagree on its size; export "
            "the image again",
            reason="corrupt",
        )
    decoded = check_damage(picture, header)
    if picture != frame:  # what precedes or follows a picture is not part of it
        dataset.PixelData = encapsulate([picture])
    baseline = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
    plain = header is not None and header.precision == 8 and len(header.ids) == 3
    if header is None or not plain or not baseline or photometric not in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        return None
    pixels = _colours(picture, header, photometric, decoded)
    return pixels if pixels is not None and pixels.shape[:2] == size else None


def check_damage(picture: bytes, header: JpegHeader | None) -> NDArray[Any] | None:
    """Refuse a JPEG or JPEG-LS picture with damaged data, which decoders get wrong, or with very many scans.

    Args:
        picture: From start to end marker.
        header: Its header; none if it is of another family.

    Returns:
        Its pixels, if checking has produced them: see :func:`strictly_decoded`.

    Raises:
        BadInput: ``corrupt``, ``too_expensive``.
    """
    check_scans(picture, header)
    if header is None:
        return None
    is_ls = header.marker == JPEG_LS
    pixels, damaged = (None, jpegls_is_damaged(picture)) if is_ls else strictly_decoded(picture, len(header.ids))
    if damaged:
        raise BadInput(
            f"{element('PixelData')} holds a {'JPEG-LS' if is_ls else 'JPEG'} picture whose data are damaged; "
            "export the image again",
            reason="corrupt",
        )
    return pixels


def _colours(
    picture: bytes, header: JpegHeader, photometric: str, decoded: NDArray[Any] | None
) -> NDArray[Any] | None:
    """Pixels of a JPEG stream, in the colours that it proves or else in those that the data set states.

    ``None`` leaves it to pydicom, because libjpeg on its own would interpret the colours differently. pydicom
    takes component names or a JFIF marker for the last word; where these are wrong, libjpeg decodes, and is told
    what the colours are.
    """
    proven = header.is_ycbcr
    ycbcr = photometric.startswith("YBR_FULL") if proven is None else proven
    if header.decoded_as_ycbcr == ycbcr:
        return opencv_decode(picture, cv2.IMREAD_COLOR) if decoded is None else decoded
    if (header.has_rgb_ids and ycbcr) or (header.jfif and not ycbcr and not header.has_rgb_ids):
        meant = "YCBCR" if ycbcr else "RGB"
        return np.asarray(imagecodecs.jpeg8_decode(picture, colorspace=meant, outcolorspace="RGB"))
    return None


def _uncompressed_size(dataset: Dataset, photometric: str) -> int:
    """Bytes that the pixel data of an uncompressed frame must have."""
    samples = number(dataset, "SamplesPerPixel", 1)
    bits = int(dataset.Rows) * int(dataset.Columns) * number(dataset, "BitsAllocated", 8)
    return (bits * 2 if photometric == "YBR_FULL_422" else bits * samples) // 8


def _displayed(dataset: Dataset, samples: NDArray[Any], photometric: str) -> tuple[Rgb, list[str]]:
    """Decoded samples as uint8 RGB, and notes."""
    notes = []
    bits = number(dataset, "BitsStored", 8)
    if photometric == "PALETTE COLOR":
        notes.append("from_palette")
        samples, corrections = coloured(samples, dataset)
        notes += corrections
        bits = 8
    if np.issubdtype(samples.dtype, np.signedinteger):
        deep = samples.astype(np.int64)
        unsigned = samples.ndim == 2 and is_unsigned(samples, bits)
        notes += ["corrected_pixel_representation"] if unsigned else []
        samples = (deep & ((1 << bits) - 1) if unsigned else deep + (1 << (bits - 1))).astype(np.uint16)
    elif dataset.file_meta.TransferSyntaxUID in JPEGTransferSyntaxes and photometric != "PALETTE COLOR":
        samples, more = within_bits(samples, bits)
        notes += more
    if not np.issubdtype(samples.dtype, np.unsignedinteger) or not 1 <= bits <= 16:
        raise BadInput(
            f"{element('BitsStored')}: the pixels are not integers of 1 to 16 bits; save the image with 8 or 16 "
            f"bits",
            reason="unsupported_format",
        )
    samples = in_eight_bits(samples, bits, notes)
    if samples.ndim == 2:
        notes.append("from_grey")
        if photometric == "MONOCHROME1":
            samples = 255 - samples
            notes.append("from_monochrome1")
        elif text(dataset, "PresentationLUTShape").upper() == "INVERSE":  # which is not allowed with MONOCHROME2
            samples = 255 - samples
            notes.append("from_inverse")
        samples = np.repeat(samples[..., None], 3, axis=2)
    if samples.shape != (dataset.Rows, dataset.Columns, 3):
        raise BadInput(
            f"{element('Rows')}, {element('Columns')} or {element('SamplesPerPixel')} and the pixel data "
            "disagree; export the image again",
            reason="corrupt",
        )
    return samples, notes


def _last_known(dataset: Dataset) -> str:
    """The last element whose tag is in the dictionary: others may come from misread bytes."""
    known = [keyword for tag in sorted(dataset.keys()) if tag.group and (keyword := keyword_for_tag(tag))]
    return element(known[-1]) if known else "its beginning"


def _is_cut(dataset: Dataset, size: int) -> bool:
    """Whether the last element claims to be longer than the file."""
    last = max(dataset.keys(), default=None)
    element: Any = None if last is None else dataset.get_item(last)
    length, start = getattr(element, "length", None), getattr(element, "value_tell", None)
    return isinstance(length, int) and isinstance(start, int) and length != 0xFFFFFFFF and start + length > size
