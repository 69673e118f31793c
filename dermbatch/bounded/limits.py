"""How much memory and time reading one file may take, by its size and the pixels that its header claims."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dermbatch.errors import TooExpensive

_COPIES = 6  # of a file's bytes: as they came, in a data set, without comments, put together ...
_PAGE = resource.getpagesize()
_MEGA = 1_000_000


@dataclass(frozen=True)
class Limits:
    """How much files may take, according to the settings.

    Attributes:
        memory: Bytes for any file.
        bytes_per_pixel: Bytes more for each pixel that the header claims.
        seconds: Seconds of processor time for any file.
        seconds_per_megapixel: The same more for each million of pixels.
        patience: Seconds on the clock for each second of a processor: on a busy machine a process gets only a
            share of one.
    """

    memory: int
    bytes_per_pixel: int
    seconds: float
    seconds_per_megapixel: float
    patience: float

    def memory_for(self, pixels: int, size: int) -> int:
        """Bytes for a file of so many pixels and bytes."""
        return self.memory + self.bytes_per_pixel * pixels + _COPIES * size

    def seconds_for(self, pixels: int) -> float:
        """Seconds of a processor for so many pixels."""
        return self.seconds + self.seconds_per_megapixel * pixels / _MEGA

    def wall_for(self, pixels: int) -> float:
        """Seconds on the clock for so many pixels."""
        return self.patience * self.seconds_for(pixels)

    def too_long(self, pixels: int) -> TooExpensive:
        """The refusal of a file that took too much of a processor's time."""
        return TooExpensive(
            f"reading the file takes more than the {self.seconds_for(pixels):,.0f} s of a processor that "
            f"{_asked(pixels)} is allowed; re-save the picture, or raise DERMBATCH_READING__SECONDS"
        )

    def too_late(self, pixels: int) -> TooExpensive:
        """The refusal of a file whose reading did not come to an end."""
        return TooExpensive(
            f"reading the file takes more than the {self.wall_for(pixels):,.0f} s on the clock that "
            f"{_asked(pixels)} is allowed; re-save the picture, or raise DERMBATCH_READING__PATIENCE"
        )

    def too_much(self, pixels: int, size: int) -> TooExpensive:
        """The refusal of a file that asked for too much memory."""
        return TooExpensive(
            f"reading the file takes more than the {self.memory_for(pixels, size) >> 20:,} MiB of memory that "
            f"{_asked(pixels)} is allowed; re-save the picture, or raise DERMBATCH_READING__MEMORY"
        )


def _asked(pixels: int) -> str:
    return f"a picture of {pixels / _MEGA:,.1f} megapixels" if pixels else "a file that states no picture size"


class BoundedRead:
    """One file that this process reads under limits.

    Args:
        limits: What it may take.
        size: Bytes of the file.
        announced: Told the pixels when a header claims so many that the file may take more.
    """

    def __init__(self, limits: Limits, size: int, announced: Callable[[int], None]) -> None:
        self._limits, self._size, self._announced, self._pixels = limits, size, announced, 0
        self._mapped = int(Path("/proc/self/statm").read_bytes().split()[0]) * _PAGE
        self._spent = time.process_time()
        self._allow()

    def announce(self, pixels: int) -> None:
        """Allow what this many pixels take; the largest number counts."""
        if pixels > self._pixels:
            self._pixels = pixels
            self._announced(pixels)
            self._allow()

    def too_much(self) -> TooExpensive:
        """The refusal of the file where its memory does not do."""
        return self._limits.too_much(self._pixels, self._size)

    def end(self) -> None:
        """Take the limits back."""
        _limit(resource.RLIMIT_AS, None)
        _limit(resource.RLIMIT_CPU, None)

    def _allow(self) -> None:
        _limit(resource.RLIMIT_AS, self._mapped + self._limits.memory_for(self._pixels, self._size))
        _limit(resource.RLIMIT_CPU, math.ceil(self._spent + self._limits.seconds_for(self._pixels)))


def _limit(kind: int, most: int | None) -> None:
    _, hard = resource.getrlimit(kind)
    most = hard if most is None else most
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError):  # a system that has no such limit
        resource.setrlimit(kind, (soft, hard))


_reading: BoundedRead | None = None


def begin(reading: BoundedRead | None) -> None:
    """Set the file that this process reads now; none once it has finished."""
    global _reading  # noqa: PLW0603 - limits are the process's, too
    _reading = reading


def announce(pixels: int) -> None:
    """Announce how many pixels a header claims, before they are decoded; does nothing without limits."""
    if _reading is not None:
        _reading.announce(pixels)


def out_of_memory() -> TooExpensive:
    """The refusal of the file being read, when memory runs out."""
    if _reading is not None:
        return _reading.too_much()
    return TooExpensive("the file does not fit into memory; make the picture smaller")
