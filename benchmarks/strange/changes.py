"""Pictures of skin, changed as cameras, tubes and programs change them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dermbatch.phantoms.occlusion import draw_hairs
from dermbatch.phantoms.skin import draw_vignette

Image = npt.NDArray[np.uint8]
Random = np.random.Generator
Change = Callable[[Image, Random], Image]


def _bytes(picture: npt.NDArray[np.floating[Any]]) -> Image:
    return np.clip(picture + 0.5, 0, 255).astype(np.uint8)


def _tinted(red: float, green: float, blue: float) -> Change:
    return lambda image, _: _bytes(image * np.array([red, green, blue]))


def _reduced(long_side: int) -> Change:
    def change(image: Image, _: Random) -> Image:
        share = min(1, long_side / max(image.shape[:2]))
        return np.asarray(cv2.resize(image, None, fx=share, fy=share, interpolation=cv2.INTER_AREA))

    return change


def _labelled(image: Image, random: Random) -> Image:
    """A white label with a number in a corner, as patients' files have it."""
    height, width = image.shape[:2]
    out, tall = image.copy(), max(12, height // 12)
    at = (0 if random.random() < 0.5 else height - tall), (0 if random.random() < 0.5 else width - width // 3)
    box = np.full((tall, width // 3, 3), 245, np.uint8)
    text = f"{random.integers(10**6):06d}"
    cv2.putText(box, text, (3, tall - 4), cv2.FONT_HERSHEY_SIMPLEX, tall / 36, (10, 10, 10), 1, cv2.LINE_AA)
    out[at[0] : at[0] + tall, at[1] : at[1] + width // 3] = box
    return out


def _squashed(image: Image, random: Random) -> Image:
    height, width = image.shape[:2]
    size = (width * 2 // 3, height) if random.random() < 0.5 else (width, height * 2 // 3)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _contrast(share: float) -> Change:
    return lambda image, _: _bytes((image - image.mean((0, 1))) * share + image.mean((0, 1)))


def _circled(image: Image, _: Random) -> Image:
    """Black outside of the circle that touches the longer sides, with a hard edge."""
    height, width = image.shape[:2]
    inside = np.zeros((height, width), np.uint8)
    cv2.circle(inside, (width // 2, height // 2), min(height, width) // 2, (1,), -1)
    return image * inside[:, :, None]


def _framed(image: Image, _: Random) -> Image:
    """The whole picture in the middle of a black one of twice its sides."""
    height, width = image.shape[:2]
    rows, columns = height // 2, width // 2
    return np.pad(image, ((rows, rows), (columns, columns), (0, 0)))


def _blurred(image: Image, _: Random) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), min(image.shape[:2]) / 128))


def _noisy(image: Image, random: Random) -> Image:
    return _bytes(image + random.normal(0, 12, image.shape))


def _coarse(image: Image, _: Random) -> Image:
    """JPEG of quality 20."""
    data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 20))[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))


def _half(image: Image, random: Random) -> Image:
    width = image.shape[1]
    return np.ascontiguousarray(image[:, : width // 2] if random.random() < 0.5 else image[:, width // 2 :])


def _grey(image: Image, _: Random) -> Image:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.repeat(grey[:, :, None], 3, axis=2)


MILD: Mapping[str, Change] = {
    "hair": lambda image, random: draw_hairs(image, random).rgb,
    "dark corners": draw_vignette,
    "a label": _labelled,
    "200 pixels": _reduced(200),
    "120 pixels": _reduced(120),
    "squashed": _squashed,
    "blue": _tinted(0.85, 0.95, 1.15),
    "warm": _tinted(1.12, 1.0, 0.8),
    "brighter": _tinted(1.2, 1.2, 1.2),
    "more contrast": _contrast(1.4),
}
POOR: Mapping[str, Change] = {"blurred": _blurred, "noisy": _noisy, "JPEG of quality 20": _coarse, "half": _half}
DARK: Mapping[str, Change] = {"0.4 of the light": _tinted(0.4, 0.4, 0.4)}
PALE: Mapping[str, Change] = {"half of the contrast": _contrast(0.5)}
CIRCLE: Mapping[str, Change] = {"black circle": _circled}
GREY: Mapping[str, Change] = {"grey": _grey}
MAGENTA: Mapping[str, Change] = {"magenta": _tinted(1.1, 0.7, 1.1)}
FRAME: Mapping[str, Change] = {"black frame": _framed}
