"""Bytes of uncompressed pixel data that belong to no pixel, located by their content and by what remains.

Exporters pad rows to whole words and frames to whole blocks, add an opacity that Samples per Pixel does not count,
or wrap uncompressed data into items. Taken for pixels, such bytes shift every sample after them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermbatch.errors import BadInput
from dermbatch.images.dicom.fragments import ITEM, fragments
from dermbatch.images.dicom.header import Header, element, refuted

Rough = Callable[[bytes], float]
"""Measures how rough the picture is that a frame's bytes make."""

_CLEARLY = 1.02
"""How much rougher, at least, a picture is with a seam where its rows are wrapped."""
_SEAM = 1.3
"""How much more its columns differ at the seam than those of the other picture where that would be wrapped."""


def leave_pixels(header: Header, each: int, frames: int, rough: Rough) -> None:
    """Remove from the pixel data what belongs to no pixel.

    What is removed must hold a single value throughout; only after the last pixel may it be anything.

    Args:
        header: A header whose pixel data are longer than its frames, by less than one frame.
        each: Bytes of a frame.
        frames: How many there are.
        rough: See above.

    Raises:
        BadInput: If nothing tells where those bytes are; the message names the element that may be wrong.
    """
    data = np.frombuffer(header.data, np.uint8)
    if (inner := _in_items(header.data)) is not None and len(inner) - each * frames in (0, 1):
        kept = inner
    else:
        empty = [found for found, left_out in _layouts(header, data, each, frames) if _holds_nothing(left_out)]
        ends = [rough(found[-each:].tobytes()) for found in empty]
        likely = (one for one, end in zip(empty, ends, strict=True) if end <= _CLEARLY * min(ends))
        first = next(likely, None)
        kept = _before_the_rest(header, data, each, frames, rough) if first is None else first.tobytes()
    header.notes.append("padding_dropped")
    kept = kept[: each * frames]
    header.data = header.dataset.PixelData = kept + bytes(len(kept) % 2)
    header.dataset["PixelData"].is_undefined_length = False


def _in_items(data: bytes) -> bytes | None:
    """The contents of the items that wrap all of it, without the offset table; none if there are no items."""
    if data[:4] != ITEM:
        return None
    return b"".join(data[start:end] for start, end in fragments(data)[1:])


Layout = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""What is kept and what is removed, one piece a row."""


def _layouts(header: Header, data: NDArray[np.uint8], each: int, frames: int) -> Iterator[Layout]:
    """Where the surplus bytes may be: in each pixel, after each row or frame, after everything or before it.

    The layouts that are least likely by chance come first.
    """
    size = each * frames
    more = len(data) - size
    yield from _fourths(header, data, size, frames)
    lines = header.number("Rows", 0) * frames
    for pieces in dict.fromkeys((3 * lines, lines, frames)):
        if pieces > 1 and size % pieces == 0 and (apart := more // pieces) and more - apart * pieces <= 1:
            cut = data[: size + apart * pieces].reshape(pieces, -1)
            yield cut[:, : size // pieces].ravel(), cut[:, size // pieces :]
    yield data[:size], data[None, size:]
    yield data[more:], data[None, :more]


def _fourths(header: Header, data: NDArray[np.uint8], size: int, frames: int) -> Iterator[Layout]:
    """A fourth sample, or plane, of three: the last or the first."""
    if not _has_fourth(header, len(data), size):
        return
    width = header.number("BitsAllocated", 8) // 8
    for shape in ((-1, 4, width), (frames, 4, size // frames // 3)):
        cells = data[: size // 3 * 4].reshape(shape)
        for kept, left_out in ((cells[:, :3], cells[:, 3]), (cells[:, 1:], cells[:, 0])):
            yield kept.ravel(), left_out.reshape(-1, width)


def _has_fourth(header: Header, length: int, size: int) -> bool:
    whole = header.number("SamplesPerPixel", 1) == 3 and header.photometric != "YBR_FULL_422"
    return whole and length - size // 3 * 4 in (0, 1)


def _holds_nothing(left_out: NDArray[Any]) -> bool:
    """Whether all its pieces are alike, and each holds a single value, apart from a sample's two bytes."""
    first = left_out[0]
    is_sample = len(left_out) > 1 and first.size == 2
    return bool((left_out == first).all()) and (is_sample or bool((first == first[0]).all()))


def _before_the_rest(header: Header, data: NDArray[np.uint8], each: int, frames: int, rough: Rough) -> bytes:
    """The first bytes, if what follows them is not part of the picture."""
    size = each * frames
    more, lines = len(data) - size, header.number("Rows", 1) * frames
    if _has_fourth(header, len(data), size):
        raise refuted("SamplesPerPixel")
    if more % (size // lines) == 0:
        raise refuted("Rows")
    if more % (lines * (each // header.pixels() or 1)) == 0:
        raise refuted("Columns")
    if frames > 1 and more % frames == 0:
        last = data[(each + more // frames) * (frames - 1) :][:each]
        if rough(data[size - each : size].tobytes()) > _CLEARLY * rough(last.tobytes()):
            raise _elsewhere()
    if _wrapped(header, data[:each], more) > _SEAM * _wrapped(header, data[more : more + each], -more):
        raise _elsewhere()
    return data[:size].tobytes()


def _wrapped(header: Header, frame: NDArray[np.uint8], offset: int) -> float:
    """How much columns differ, relative to all, where rows wrap if a frame begins this many bytes too early."""
    rows, width = header.number("Rows", 1), header.number("BitsAllocated", 8) // 8
    apart = header.number("PlanarConfiguration", 0) == 1
    line = len(frame) // rows // (3 if apart else 1)
    cell = width if apart else line // header.number("Columns", 1)
    at = offset % line // cell
    more_significant = width - 1 if header.syntax.is_little_endian else 0
    picture = frame.reshape(-1, line // cell, cell)[..., more_significant::width]
    across = np.abs(np.diff(picture.astype(np.int16), axis=1)).mean(axis=(0, 2))
    return 0.0 if at == 0 else float(across[at - 1] / max(float(np.median(across)), 1e-9))


def _elsewhere() -> BadInput:
    return BadInput(
        f"{element('PixelData')} holds more bytes than the picture has, and not after it; export the image again",
        reason="corrupt",
    )
