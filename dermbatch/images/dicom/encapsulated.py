"""Encapsulated pixel data (PS3.5, A.4): what their streams prove about a header."""

from __future__ import annotations

from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from dermbatch.errors import BadInput
from dermbatch.images.dicom.fragments import ITEM, Place, begins, family, fragments, joined, picture_of, pictures
from dermbatch.images.dicom.header import SAMPLES, Header, element, missing, refuted
from dermbatch.images.jpegheader import JpegHeader, read_jpeg2000_header, read_jpeg_header

_DCT = (JPEGBaseline8Bit, JPEGExtended12Bit)
_BY_FRAME_HEADER = {
    0xC3: (JPEGLossless, JPEGLosslessSV1),
    0xF7: (JPEGLSNearLossless, JPEGLSLossless),
}
"""Transfer syntaxes by the marker of the frame header (ITU-T T.81, B.1.1.3, T.87, C.1.1); others are DCT-based."""
_PARTIAL = frozenset({"YBR_PARTIAL_420", "YBR_PARTIAL_422"})
_TRANSFORMED = frozenset({"YBR_RCT", "YBR_ICT"})
"""Colour codings that only JPEG 2000 has."""
_HEAD = 1 << 20
"""Bytes of a compressed picture in which its header is searched."""


def is_encapsulated(header: Header) -> bool:
    """Whether Pixel Data hold compressed pictures, whatever the transfer syntax says."""
    if header.data[:4] == ITEM:
        first = fragments(header.data[: 1 << 16])[0][0]
        if family(picture_of(header.data[first : first + 512])) is not None:  # the offset table's item is left out
            header.set_pixels(ITEM + bytes(4) + header.data)
        return True
    if family(header.data[:512]) is not None and (
        header.syntax.is_encapsulated or len(header.data) < header.pixels()
    ):
        header.set_pixels(encapsulate([header.data]))  # one stream without the items around it
        return True
    if header.syntax.is_encapsulated:
        header.correct("TransferSyntaxUID", ExplicitVRLittleEndian)
    return False


def settle_encapsulated(header: Header) -> bool:
    """Correct a header by means of its compressed pictures.

    Returns:
        Whether it did; not if they turn out to be as many bytes as uncompressed pictures have.

    Raises:
        BadInput: If an element, which is named, is missing or wrong and they do not prove what is right.
    """
    places = fragments(header.data)[1:]
    if not places:
        raise BadInput(
            f"{element('PixelData')} holds no compressed picture; export the image again", reason="corrupt"
        )
    head = picture_of(joined(header.data, places[:8])[:_HEAD])
    kind = family(head)
    is_rle = header.syntax == RLELossless
    if kind is None and not is_rle and all(begins(header.data[a : a + 512]) for a, _ in places):
        header.correct("TransferSyntaxUID", RLELossless)
    elif kind is None and not is_rle:
        if not header.syntax.is_encapsulated and len(header.data) >= header.pixels() > 0:
            return False
        raise BadInput(
            f"what {element('PixelData')} holds at byte {places[0][0]} does not begin like a JPEG, JPEG-LS or "
            f"JPEG 2000 picture; export the image again",
            reason="corrupt",
        )
    _count(header, places)
    if kind == "jpeg" and (stream := read_jpeg_header(head)) is not None:
        _jpeg(header, stream)
    elif kind == "jpeg2000":
        _jpeg2000(header, head)
    elif kind is None:
        _rle(header)
    return True


def _count(header: Header, places: list[Place]) -> None:
    """Number of Frames: the number of pictures, if it is missing or 1."""
    begun, declared = len(pictures(header.data, places)), header.frames()
    if begun > 1 and declared <= 1:
        header.correct("NumberOfFrames", begun)
    elif begun > declared > 1 or declared > len(places):
        raise refuted("NumberOfFrames")


def _jpeg(header: Header, stream: JpegHeader) -> None:
    fitting = _BY_FRAME_HEADER.get(stream.marker, _DCT)
    if header.syntax not in fitting:
        fit = fitting[stream.precision > 8] if fitting is _DCT else fitting[0]
        header.correct("TransferSyntaxUID", fit)
    _size(header, stream.height, stream.width)
    _precision(header, stream.precision)
    if header.photometric == "PALETTE COLOR" and fitting is _DCT:
        raise refuted("PhotometricInterpretation")  # lossy coding would change palette indices
    _components(header, len(stream.ids))
    if len(stream.ids) == 3:
        _jpeg_colours(header, stream)


def _jpeg_colours(header: Header, stream: JpegHeader) -> None:
    """RGB or YCbCr, as proved by component names, markers or sub-sampling; else as the header says."""
    if stream.marker in _BY_FRAME_HEADER:  # coded without loss: most streams say nothing
        if stream.is_ycbcr is False and header.photometric.startswith("YBR"):
            header.correct("PhotometricInterpretation", "RGB")  # by component names, or Adobe's marker
        if header.photometric in _PARTIAL | _TRANSFORMED:
            raise refuted("PhotometricInterpretation")
        if not header.photometric:
            raise missing("PhotometricInterpretation")
        return
    proven = stream.is_ycbcr
    if proven is None:
        if not header.photometric:
            raise missing("PhotometricInterpretation")
        if header.photometric not in {"RGB", "YBR_FULL", "YBR_FULL_422"} | _PARTIAL:
            raise refuted("PhotometricInterpretation")
        proven = header.photometric.startswith("YBR")
    known = header.photometric in ("RGB", "YBR_FULL", "YBR_FULL_422")
    if not known or proven != header.photometric.startswith("YBR"):
        header.correct("PhotometricInterpretation", "YBR_FULL_422" if proven else "RGB")


def _jpeg2000(header: Header, head: bytes) -> None:
    if header.syntax not in JPEG2000TransferSyntaxes:
        header.correct("TransferSyntaxUID", JPEG2000)
    stream = read_jpeg2000_header(head)
    if stream is None:
        return
    _size(header, stream.height, stream.width)
    _precision(header, stream.precision)
    _components(header, stream.components)
    if stream.components == 3 and stream.transformed and header.photometric not in ("YBR_ICT", "YBR_RCT", "RGB"):
        header.correct("PhotometricInterpretation", "RGB")
    if stream.components == 3 and not header.photometric:
        raise missing("PhotometricInterpretation")


def _rle(header: Header) -> None:
    if header.photometric in _PARTIAL | _TRANSFORMED:
        raise refuted("PhotometricInterpretation")
    if not header.has("SamplesPerPixel") and header.photometric in SAMPLES:
        header.correct("SamplesPerPixel", SAMPLES[header.photometric])
    if not header.has("BitsAllocated"):
        raise missing("BitsAllocated")
    header.fill_bits()
    header.sign(unsigned=header.number("SamplesPerPixel", 1) == 3)
    if header.number("SamplesPerPixel", 1) == 3 and not header.has("PlanarConfiguration"):
        header.correct("PlanarConfiguration", 0, noted=False)
    if not header.photometric:
        raise missing("PhotometricInterpretation")


def _size(header: Header, height: int, width: int) -> None:
    for keyword, right in (("Rows", height), ("Columns", width)):
        if not header.has(keyword):
            header.correct(keyword, right)
        elif header.number(keyword, 0) != right:
            raise BadInput(
                f"{element(keyword)} and the compressed picture disagree on its size; export the image again",
                reason="corrupt",
            )


def _precision(header: Header, precision: int) -> None:
    allocated = 8 if precision <= 8 else 16
    # The JPEG 2000 decoder widens samples according to Bits Allocated.
    widened = allocated == 8 and header.has("BitsAllocated") and header.syntax in JPEG2000TransferSyntaxes
    if header.number("BitsAllocated", 0) != allocated and not widened:
        if allocated > header.number("BitsAllocated", allocated):
            header.correct("BitsStored", precision)  # it described other samples than these
        header.correct("BitsAllocated", allocated, noted=header.has("BitsAllocated"))
    declared = header.number("BitsStored", 0)
    if not 0 < declared <= precision:
        header.correct("BitsStored", precision, noted=declared > 0)
    stored = header.number("BitsStored", 0)
    if header.number("HighBit", -1) != stored - 1:
        header.correct("HighBit", stored - 1, noted=False)


def _components(header: Header, components: int) -> None:
    if components not in (1, 3):
        raise BadInput(
            f"the compressed picture has {components} components; {element('SamplesPerPixel')} may be 1 or 3: "
            "convert the image to RGB",
            reason="unsupported_format",
        )
    declared = header.number("SamplesPerPixel", 0)
    if declared != components:
        header.correct("SamplesPerPixel", components, noted=declared > 0)
    if components == 3 and header.number("PlanarConfiguration", 0):
        header.correct("PlanarConfiguration", 0)  # it says nothing of compressed data (PS3.5, 8.2)
    if components == 3:
        header.correct("PlanarConfiguration", 0, noted=False)
    if components == 1 and SAMPLES.get(header.photometric) != 1:
        header.correct("PhotometricInterpretation", "MONOCHROME2")
    elif components == 3 and SAMPLES.get(header.photometric) == 1:
        raise refuted("PhotometricInterpretation")
    header.sign(unsigned=components == 3 or header.syntax in _DCT)
