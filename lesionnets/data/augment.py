"""Augmentations of dermoscopic images and their masks with OpenCV, in one or two milliseconds an image.

Random numbers come from a NumPy generator that is handed in. Images are RGB uint8 [H, W, 3], masks uint8 [H, W].
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.uint8]
Random = np.random.Generator


def random_view(image: Image, mask: Mask, size: int, random: Random) -> tuple[Image, Mask]:
    """Turn, mirror, squash, zoom and shift an image, in one interpolation.

    Cameras' frames are 4:3 or 3:2 and are squashed to a network's square input, so each side is scaled separately.
    Zooming out makes a lesion as small as in wide frames, with a black, mirrored or stretched surround.

    Returns:
        Image and mask of ``size`` x ``size``.
    """
    zoom = math.exp(random.normal(0.0, 0.18))
    squash = random.uniform(0.7, 1.0) if random.random() < 0.6 else 1.0
    scales = np.array([zoom * squash, zoom] if random.random() < 0.7 else [zoom, zoom * squash])
    angle = math.radians(90 * random.integers(4) + random.normal(0, 12))
    if random.random() < 0.5:
        angle_matrix = np.array([[-math.cos(angle), -math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    else:
        angle_matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    height, width = image.shape[:2]
    # The camera's squash is applied last: it acts along the axes of the frame, not of the lesion.
    matrix = np.diag(scales * size / np.array([width, height])) @ angle_matrix
    centre = np.array([width, height]) / 2
    shift = random.normal(0, 0.06, 2) * size
    offset = np.array([size, size]) / 2 - matrix @ centre + shift
    border = (cv2.BORDER_REFLECT_101, cv2.BORDER_CONSTANT, cv2.BORDER_REPLICATE)[
        random.choice(3, p=[0.5, 0.35, 0.15])
    ]
    affine = np.column_stack([matrix, offset])
    view = cv2.warpAffine(image, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)
    # A stretched surround would smear the lesion's label along with it: only mirrored ones keep theirs.
    mask_border = border if border == cv2.BORDER_REFLECT_101 else cv2.BORDER_CONSTANT
    label = cv2.warpAffine(mask, affine, (size, size), flags=cv2.INTER_LINEAR, borderMode=mask_border)
    return np.asarray(view, np.uint8), np.asarray(label, np.uint8)


def jitter_colour(image: Image, random: Random) -> Image:
    """Change light, white balance, contrast, saturation and gamma, as between dermatoscopes."""
    values = image.astype(np.float32) / 255
    values *= math.exp(random.normal(0, 0.12)) * np.exp(random.normal(0, 0.05, 3)).astype(np.float32)
    grey = values.mean(axis=2, keepdims=True)
    values = grey + (values - grey) * np.float32(math.exp(random.normal(0, 0.15)))
    mean = values.mean()
    values = mean + (values - mean) * np.float32(math.exp(random.normal(0, 0.12)))
    values = np.clip(values, 0, 1) ** np.float32(math.exp(random.normal(0, 0.12)))
    return np.asarray(values * 255 + 0.5, np.uint8)


def vignette(image: Image, mask: Mask, random: Random) -> tuple[Image, Mask]:
    """Add the dark corners of a dermatoscope's tube; the mask ends where nothing can be seen."""
    size = image.shape[0]
    rows, columns = np.mgrid[:size, :size].astype(np.float32) / size - 0.5
    shift = random.normal(0, 0.03, 2)
    stretch = random.uniform(0.8, 1.25)
    radius = random.uniform(0.42, 0.62)
    distance = np.hypot(rows * stretch - shift[0], columns / stretch - shift[1])
    light = (1 + np.tanh((radius - distance) / random.uniform(0.008, 0.06))) / 2  # the logistic: never overflows
    floor = random.uniform(0, 0.15)
    darkened = image * (floor + (1 - floor) * light)[:, :, None]
    return np.asarray(darkened, np.uint8), np.where(light > 0.5, mask, np.uint8(0))


def hair_curve(size: int, random: Random) -> npt.NDArray[np.float64]:
    """Points float64 [24, 2] of a hair across a square picture: a Bezier curve, slightly bent."""
    start, middle, end = random.uniform(-0.1, 1.1, (3, 2)) * size
    t = np.linspace(0, 1, 24)[:, None]
    middle = 0.7 * (start + end) / 2 + 0.3 * middle
    return np.asarray((1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end, np.float64)


def draw_hairs(image: Image, random: Random) -> Image:
    """Draw up to a dozen dark or light curved hairs."""
    drawn = image.copy()
    size = image.shape[0]
    for _ in range(random.integers(1, 13)):
        curve = hair_curve(size, random)
        shade = random.integers(10, 80) if random.random() < 0.85 else random.integers(180, 240)
        colour = [int(np.clip(shade + random.normal(0, 8), 0, 255)) for _ in range(3)]
        points = np.round(curve * 8).astype(np.int32)
        thickness = 1 if random.random() < 0.75 else 2
        cv2.polylines(drawn, [points], False, colour, thickness, cv2.LINE_AA, shift=3)
    return drawn


def coarsen(image: Image, random: Random) -> Image:
    """Reduce the resolution to between a third and all of it, as other cameras do.

    Parts of an archive differ in resolution and in diagnoses; a classifier must not infer one from the other.
    """
    height, width = image.shape[:2]
    share = random.uniform(0.35, 1.0)
    small = cv2.resize(image, (round(width * share), round(height * share)), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def augment_pair(image: Image, mask: Mask, size: int, random: Random) -> tuple[Image, Mask]:
    """All of the above, each with its own probability, for training segmentation."""
    view, label = random_view(image, mask, size, random)
    if random.random() < 0.2:
        view = draw_hairs(view, random)
    if random.random() < 0.2:
        view, label = vignette(view, label, random)
    return jitter_colour(view, random), label
