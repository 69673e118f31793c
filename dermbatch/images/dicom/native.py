"""Uncompressed pixel data (PS3.5, 8.1): what their length and smoothness prove about a header."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dermbatch.errors import BadInput
from dermbatch.images.dicom.header import SAMPLES, Header, element, missing, refuted
from dermbatch.images.dicom.surplus import leave_pixels
from dermbatch.images.dicompolicy import number

_PROVEN, _LIKELY = 1.5, 1.2
"""How much smoother the other arrangement of planes must be: against the header, and without it."""
_SMOOTH = 1.2
"""Roughness that a picture may have, relative to the mean deviation of its samples; noise has 2 or more."""
_LOOKED_AT = 96
"""Number of rows that decide which of the two arrangements of planes is meant."""


def settle_native(header: Header) -> None:
    """Correct a header by means of its uncompressed pixels.

    Raises:
        BadInput: If an element, which is named, is missing or wrong and they do not prove what is right.
    """
    if not header.photometric:
        palette = "RedPaletteColorLookupTableDescriptor" in header.dataset
        if not palette or header.number("SamplesPerPixel", 1) != 1:
            raise missing("PhotometricInterpretation")
        header.correct("PhotometricInterpretation", "PALETTE COLOR")
    if header.photometric not in SAMPLES:
        raise BadInput(
            f"{element('PhotometricInterpretation')} is not supported for uncompressed pictures; convert the "
            f"image to RGB",
            reason="unsupported_format",
        )
    for keyword in ("Rows", "Columns"):
        if header.number(keyword, 0) <= 0:
            raise missing(keyword)
    if SAMPLES[header.photometric] == 1 and header.number("SamplesPerPixel", 1) == 3:
        _not_of_one_sample(header)
    _lengths(header)
    _sides(header)
    _byte_order(header)
    header.fill_bits()
    header.sign(unsigned=header.number("SamplesPerPixel", 1) == 3 or _is_smoother_unsigned(header))
    if header.photometric == "YBR_FULL_422":
        _no_planes(header)
    elif header.number("SamplesPerPixel", 1) == 3:
        _planes(header)


def _not_of_one_sample(header: Header) -> None:
    """Refuse three samples a pixel, as the length shows them, under a Photometric Interpretation that has one."""
    pixels = header.number("Rows", 0) * header.number("Columns", 0) * header.frames()
    if _fits(header, 3 * pixels) or _fits(header, 6 * pixels):
        raise refuted("PhotometricInterpretation")


def _lengths(header: Header) -> None:
    """Samples, bits allocated, sub-sampling and frames, as far as the number of bytes proves them."""
    pixels = header.number("Rows", 0) * header.number("Columns", 0)
    samples, allocated = SAMPLES[header.photometric], header.number("BitsAllocated", 0)
    if allocated == 24 and samples == 3:
        allocated = 8  # the bits of a pixel were written, where those of a sample are meant
        _sampled(header, allocated)
    if allocated and allocated not in (1, 8, 16, 32):
        raise BadInput(
            f"{element('BitsAllocated')} is not supported; save the image with 8 or 16 bits a sample",
            reason="unsupported_format",
        )
    _samples(header, samples)
    frames = header.frames()
    halved = header.photometric == "YBR_FULL_422"
    if _fits(header, -(-pixels * frames * allocated * (2 if halved else samples) // 8)):
        return
    _by_length(header, pixels, samples, 0 if allocated == 1 else allocated, frames)


def _by_length(header: Header, pixels: int, samples: int, allocated: int, frames: int) -> None:
    """Correct what contradicts the length; anything that nothing proves is left as it is."""
    if _by_width(header, pixels * frames * samples, samples, allocated):
        return
    if header.photometric == "YBR_FULL" and _fits(header, pixels * frames * 2) and allocated in (0, 8):
        header.correct("PhotometricInterpretation", "YBR_FULL_422")
        _sampled(header, 8)
        return
    if not allocated:
        raise refuted("BitsAllocated") if header.has("BitsAllocated") else missing("BitsAllocated")
    each = pixels * allocated * (2 if header.photometric == "YBR_FULL_422" else samples) // 8
    there = len(header.data) // each
    if frames == 1 and there > 1 and _fits(header, each * there):
        header.correct("NumberOfFrames", there)
    elif len(header.data) >= each * (frames + 1):
        raise refuted("NumberOfFrames")
    elif len(header.data) > each * frames > 0:
        leave_pixels(header, each, frames, lambda frame: _rough(header, frame))
    elif samples == 3 and (_fits(header, each * frames // 3) or (frames == 1 and _fits(header, each // 3 * 2))):
        raise refuted("PhotometricInterpretation")
    elif allocated == 16 and _fits(header, each * frames // 2):
        raise refuted("BitsAllocated")


def _by_width(header: Header, expected: int, samples: int, allocated: int) -> bool:
    """Whether the length fits this many samples of one or of two bytes; if so, the header is corrected."""
    deep = header.number("BitsStored", 8) > 8
    for width in (16, 8) if deep else (8, 16):
        if not _fits(header, expected * width // 8):
            continue
        if allocated and allocated != width and header.number("BitsStored", 8) > width:
            return False
        if width == 16 and allocated != 16 and not deep and not _is_deep(header, samples):
            continue
        if allocated != width:
            _sampled(header, width)
        if header.photometric == "YBR_FULL_422":
            header.correct("PhotometricInterpretation", "YBR_FULL")
        return True
    return False


def _is_deep(header: Header, samples: int) -> bool:
    """Whether two-byte samples make a clearly smoother picture than twice as many one-byte ones."""
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    data = header.data[: 2 * rows * columns * samples]
    shallow, deep = np.frombuffer(data, "u1"), [np.frombuffer(data, kind) for kind in ("<u2", ">u2")]
    if bool((deep[0] == deep[1]).all()) and deep[0].min() < deep[0].max():
        return True  # samples of 8 bits, spread over 16
    as_frames = [shallow.reshape(2 * rows, columns, samples), shallow.reshape(rows, 2 * columns, samples)]
    as_deep = [one.reshape(rows, columns, samples) for one in deep]
    if samples == 3:
        as_frames.append(_by_plane(shallow[: shallow.size // 2], rows, columns))
        as_deep += [_by_plane(one, rows, columns) for one in deep]
    return _least(as_frames) > _PROVEN * _least(as_deep)


def _least(pictures: list[NDArray[Any]]) -> float:
    """The roughness of the smoothest of these, relative to the deviation of its samples."""
    return min(sum(roughness(one)) / _spread(one) for one in pictures)


def _fits(header: Header, expected: int) -> bool:
    return expected > 0 and len(header.data) in (expected, expected + expected % 2)


def _sampled(header: Header, width: int) -> None:
    header.correct("BitsAllocated", width)
    if header.number("BitsStored", 0) > width:
        header.correct("BitsStored", width, noted=False)
        header.correct("HighBit", width - 1, noted=False)


def _samples(header: Header, samples: int) -> None:
    if header.number("SamplesPerPixel", 0) != samples:
        header.correct("SamplesPerPixel", samples)


def _is_smoother_unsigned(header: Header) -> bool:
    """Whether uncompressed grey samples that claim to be signed make a smoother picture as unsigned ones."""
    width, stored = header.number("BitsAllocated", 0) // 8, header.number("BitsStored", 0)
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    pixels = rows * columns
    grey = header.photometric.startswith("MONOCHROME")
    if not grey or width not in (1, 2) or len(header.data) < pixels * width:
        return False
    kind = "u1" if width == 1 else ("<u2" if header.syntax.is_little_endian else ">u2")
    samples = np.frombuffer(header.data, kind, pixels).reshape(rows, columns, 1).astype(np.int32)
    samples = (samples >> (header.number("HighBit", stored - 1) + 1 - stored)) & ((1 << stored) - 1)
    plain, signed = sum(roughness(samples)), sum(roughness(samples ^ (1 << (stored - 1))))
    return signed > _PROVEN * plain


def _planes(header: Header) -> None:
    """Set Planar Configuration, if missing or wrong, to whichever makes the smoother picture."""
    declared = header.number("PlanarConfiguration", -1)
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    width = header.number("BitsAllocated", 8) // 8
    if width not in (1, 2) or len(header.data) < rows * columns * 3 * width:
        return
    big = not header.syntax.is_little_endian
    kind = np.dtype("u1" if width == 1 else (">u2" if big else "<u2"))
    samples = np.frombuffer(header.data, kind, rows * columns * 3)
    rough = [roughness(samples.reshape(rows, columns, 3)), roughness(_by_plane(samples, rows, columns))]
    better = int(sum(rough[1]) < sum(rough[0]))
    ratio = sum(rough[1 - better]) / max(sum(rough[better]), 1e-9)
    if declared in (0, 1):
        # If a grey picture stored by pixel is read by plane, horizontal neighbours are equal, but
        # vertical ones are not.
        both = all(one < 0.9 * other for one, other in zip(rough[better], rough[declared], strict=True))
        if better != declared and both and ratio > _PROVEN:
            header.correct("PlanarConfiguration", better)
    elif ratio > _LIKELY:
        header.correct("PlanarConfiguration", better)
    else:
        raise missing("PlanarConfiguration")


def _no_planes(header: Header) -> None:
    """Planar Configuration of sub-sampled colours, which are always stored by pixel (PS3.3, C.7.6.3.1.2)."""
    frame = _last_frame(header)
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    if header.number("PlanarConfiguration", 0) != 1 or frame is None or columns % 2:
        return
    samples = np.frombuffer(frame, "u1", rows * columns * 2)
    # Either way, take the luminance of the half that would hold it if stored by plane.
    by_pixel = samples[: rows // 2 * 2 * columns].reshape(-1, 4)[:, :2].reshape(rows // 2, columns, 1)
    by_plane = samples[: rows * columns].reshape(rows, columns, 1)
    if sum(roughness(by_pixel)) > sum(roughness(by_plane)):
        raise refuted("PlanarConfiguration")
    header.correct("PlanarConfiguration", 0)


def _sides(header: Header) -> None:
    """Swap Rows and Columns if the picture is clearly smoother that way."""
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    frame = _last_frame(header)
    if rows == columns or header.photometric == "PALETTE COLOR" or frame is None:
        return
    if _smoothest(header, frame, rows, columns) > _PROVEN * _smoothest(header, frame, columns, rows):
        header.correct("Rows", columns)
        header.correct("Columns", rows)


def _byte_order(header: Header) -> None:
    """Put two-byte samples into the byte order that makes the clearly smoother picture."""
    frame = _last_frame(header)
    if header.number("BitsAllocated", 0) != 16 or header.photometric == "PALETTE COLOR" or frame is None:
        return
    rows, columns = header.number("Rows", 0), header.number("Columns", 0)
    swapped = np.frombuffer(frame, "<u2").byteswap().tobytes()
    there, other = (
        _smoothest(header, one, rows, columns) / _spread(_samples_of(header, one)) for one in (frame, swapped)
    )
    if there > _PROVEN * other and other < _SMOOTH:
        even = header.data[: len(header.data) // 2 * 2]
        header.data = header.dataset.PixelData = np.frombuffer(even, "<u2").byteswap().tobytes()
        header.notes.append("swapped_bytes")


def _last_frame(header: Header) -> bytes | None:
    """The bytes of the last frame of whole samples; none if some are missing."""
    width, halved = header.number("BitsAllocated", 0) // 8, header.photometric == "YBR_FULL_422"
    each = header.pixels() * width * (2 if halved else header.number("SamplesPerPixel", 1))
    end = each * header.frames()
    return header.data[end - each : end] if width in (1, 2) and 0 < end <= len(header.data) else None


def _samples_of(header: Header, frame: bytes) -> NDArray[Any]:
    little = header.syntax.is_little_endian
    deep = ("<" if little else ">") + ("i2" if header.number("PixelRepresentation", 0) == 1 else "u2")
    return np.frombuffer(frame, deep if header.number("BitsAllocated", 8) == 16 else "u1")


def _spread(samples: NDArray[Any]) -> float:
    """Mean absolute deviation of samples, never 0."""
    return float(np.abs(samples - samples.mean()).mean()) + 1e-9


def _pictures(header: Header, frame: bytes, rows: int, columns: int) -> list[NDArray[Any]]:
    """The pictures that a frame shows, read by pixel and by plane."""
    samples = _samples_of(header, frame)
    if header.photometric == "YBR_FULL_422":
        made = [samples.reshape(rows, -1, 4)] if columns % 2 == 0 else []
    elif header.number("SamplesPerPixel", 1) == 3:
        made = [samples.reshape(rows, columns, 3), _by_plane(samples, rows, columns)]
    else:
        made = [samples.reshape(rows, columns, 1)]
    return [one for one in made if min(one.shape[:2]) > 1]


def _smoothest(header: Header, frame: bytes, rows: int, columns: int) -> float:
    """How rough a frame is, read by pixel or by plane, whichever is smoother."""
    return min((sum(roughness(one)) for one in _pictures(header, frame, rows, columns)), default=0.0)


def _rough(header: Header, frame: bytes) -> float:
    """The same in the shape that the header states, including its strongest vertical seam."""
    made = _pictures(header, frame, header.number("Rows", 1), header.number("Columns", 1))
    return min((sum(roughness(one)) + _seam(one) for one in made), default=0.0)


def _seam(picture: NDArray[Any]) -> float:
    """The mean absolute difference of the two neighbouring columns that differ most."""
    return float(np.abs(np.diff(_middle(picture), axis=1)).mean(axis=(0, 2)).max())


def _by_plane(samples: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    return samples.reshape(3, rows, columns).transpose(1, 2, 0)


def roughness(picture: NDArray[Any]) -> tuple[float, float]:
    """Mean absolute difference of neighbours of one channel, [H, W, 3], across and down, in its middle rows."""
    part = _middle(picture)
    across, down = np.abs(np.diff(part, axis=1)).mean(), np.abs(np.diff(part, axis=0)).mean()
    return float(across), float(down)


def _middle(picture: NDArray[Any]) -> NDArray[np.int32]:
    first = max(0, (picture.shape[0] - _LOOKED_AT) // 2)
    return picture[first : first + _LOOKED_AT].astype(np.int32)


def is_unsigned(samples: NDArray[Any], bits: int) -> bool:
    """Whether grey samples that were read as signed make a clearly smoother picture as unsigned ones.

    Args:
        samples: Signed, [H, W].
        bits: How many of each are stored.
    """
    deep = samples[..., None].astype(np.int32)
    if int(deep.max()) >> (bits - 1):
        return True  # larger than any signed one
    plain, signed = deep & ((1 << bits) - 1), deep + (1 << (bits - 1))
    return sum(roughness(signed)) > _PROVEN * sum(roughness(plain))


def within_bits(samples: NDArray[Any], stored: int) -> tuple[NDArray[Any], list[str]]:
    """Decoded samples without overlay planes above Bits Stored; unchanged if these bits belong to the samples.

    Args:
        samples: Unsigned, [H, W] or [H, W, 3].
        stored: Bits Stored.

    Returns:
        Samples, and notes.
    """
    if not int(samples.max(initial=0)) >> stored:
        return samples, []
    if (samples.ndim == 3 and samples.itemsize == 1) or _belongs(np.atleast_3d(samples).astype(np.int32), stored):
        return samples, ["corrected_bits_stored"]
    return np.asarray(samples & ((1 << stored) - 1), samples.dtype), []


def is_lying(samples: NDArray[Any]) -> bool:
    """Whether samples, [H, W] or [H, W, 3], make a clearly smoother picture with Rows and Columns swapped."""
    rows, columns = samples.shape[:2]
    if rows == columns:
        return False
    there, other = np.atleast_3d(samples), np.ascontiguousarray(samples).reshape(columns, rows, -1)
    return sum(roughness(there)) > _PROVEN * sum(roughness(other))


def settle_samples(dataset: Dataset) -> list[str]:
    """Bring the stored bits of uncompressed samples to the bottom, by High Bit (PS3.5, 8.1.1).

    If nothing lies above the stored bits but something below the place that High Bit gives them, High Bit is
    wrong. If samples need more bits than are stored, Bits Stored is wrong, unless the bits are overlay planes.

    Args:
        dataset: Settled; changed in place.

    Returns:
        Notes.
    """
    stored, high = number(dataset, "BitsStored", 8), number(dataset, "HighBit", -1)
    coded = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    allocated = number(dataset, "BitsAllocated", 8)
    if coded or allocated not in (8, 16) or not stored - 1 <= high < allocated:
        return []
    size = allocated // 8
    kind = "u1" if size == 1 else ("<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2")
    samples = np.frombuffer(dataset.PixelData[: len(dataset.PixelData) // size * size], kind)
    below = high + 1 - stored
    top = int(samples.max()) if samples.size else 0
    if size == 1 and top >> stored and (widened := _widen(dataset, samples, top)):
        return widened
    if not below:
        return (
            _widen(dataset, samples, top)
            if top >> stored and not number(dataset, "PixelRepresentation", 0)
            else []
        )
    dataset.HighBit = stored - 1
    if top < 1 << stored and bool((samples & ((1 << below) - 1)).any()):
        return ["corrected_high_bit"]
    shifted = (samples >> below) & ((1 << stored) - 1)
    dataset.PixelData = shifted.astype(kind).tobytes()
    return ["shifted_by_high_bit"]


def _widen(dataset: Dataset, samples: NDArray[Any], top: int) -> list[str]:
    """Raise Bits Stored to what the largest sample needs, if the bits above belong to the samples.

    For one-byte colours they always do: overlay planes occur only in the words of grey pictures (PS3.5, 8.1.2).
    """
    rows, columns = number(dataset, "Rows", 0), number(dataset, "Columns", 0)
    colours = number(dataset, "SamplesPerPixel", 1)
    first = samples[: rows * columns * colours]
    if first.size < rows * columns * colours:
        return []
    apart = colours == 3 and number(dataset, "PlanarConfiguration", 0) == 1
    picture = _by_plane(first, rows, columns) if apart else first.reshape(rows, columns, colours)
    if (colours != 3 or samples.itemsize > 1) and not _belongs(
        picture.astype(np.int32), number(dataset, "BitsStored", 8)
    ):
        return []
    dataset.BitsStored = top.bit_length()
    dataset.HighBit = top.bit_length() - 1
    return ["corrected_bits_stored"]


_OVERLAYS = 4
"""Up to this many different values above the stored bits they may be overlays: two planes."""


def _belongs(picture: NDArray[np.int32], stored: int) -> bool:
    """Whether the bits above those stored continue the samples, rather than being overlay planes.

    They do if they take many values. Otherwise, wherever they change from one sample to the next, the bits below
    must overflow: then the difference of whole samples is the smaller one.
    """
    above = picture >> stored
    values = np.unique(above)
    if len(values) > _OVERLAYS and len(values) > 0.8 * (int(values[-1]) - int(values[0]) + 1):
        return True
    changes = np.diff(above, axis=1) != 0
    whole = np.abs(np.diff(picture, axis=1))[changes]
    below = np.abs(np.diff(picture & ((1 << stored) - 1), axis=1))[changes]
    return bool(whole.size) and float(np.median(whole)) < float(np.median(below))  # edges do not count
