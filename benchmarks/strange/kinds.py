"""The kinds of pictures, each picture with a name, always the same ones in the same order.

Real pictures lie in folders beside each other, laid out as ``docs/data.md`` says; a kind whose folder is not there
is left out. Photographs of other things are those that come with scikit-image and scikit-learn.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from skimage import data as samples
from sklearn.datasets import load_sample_images

from benchmarks.strange import changes, drawings
from dermbatch.errors import BadInput
from dermbatch.images.imagefile import read_image
from dermbatch.phantoms.occlusion import draw_hairs
from dermbatch.phantoms.phantom import phantom
from dermbatch.phantoms.samples import encode

Image = drawings.Image
Pictures = Iterator[tuple[str, Image]]

PHOTOGRAPHS = (
    *(
        "astronaut",
        "brick",
        "camera",
        "cat",
        "cell",
        "clock",
        "coffee",
        "coins",
        "grass",
        "gravel",
        "hubble_deep_field",
    ),
    *("immunohistochemistry", "moon", "page", "retina", "rocket", "text"),
)
"""Of scikit-image: objects, animals, places, surfaces, and pictures by other instruments."""

_PIXELS = 100_000_000
_SUFFIXES = (".jpg", ".png", ".dcm", ".tif", "_sc.dcm", ".webp", ".bmp")


@dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        group: ``skin``, ``changed skin`` or ``no skin``.
        name: What the table calls it.
        pictures: Gives them with their names.
        masked: Whether the classifier is given the mask that is found; else an empty one.
    """

    group: str
    name: str
    pictures: Callable[[], Pictures]
    masked: bool = True


def seeded(*names: object) -> np.random.Generator:
    """A generator that depends on the names alone."""
    return np.random.default_rng(zlib.crc32("/".join(map(str, names)).encode()))


def drawn_kinds(share: int = 1) -> list[Kind]:
    """Those that need no folder.

    Args:
        share: Every which picture is drawn; 1 for all.
    """
    counts: Mapping[str, tuple[Callable[[np.random.Generator], Image], int]] = {
        "documents": (drawings.document, 80),
        "screens": (drawings.screen, 60),
        "charts": (drawings.chart, 40),
        "faces: drawn": (drawings.face, 60),
        "textures": (drawings.texture, 60),
        "textures in the colour of skin": (drawings.skin_texture, 40),
        "one colour, gradients": (drawings.plain, 72),
        "noise": (drawings.noise, 40),
    }
    return [
        Kind("skin", "phantoms", lambda: _phantoms(range(0, 60, share))),
        Kind("skin", "phantoms with 60 hairs", lambda: _hairy(range(0, 30, share))),
        Kind("skin", "phantoms as files", lambda: _files(range(0, 30, share))),
        *(
            Kind("no skin", name, _drawn(name, draw, range(0, count, share)))
            for name, (draw, count) in counts.items()
        ),
        Kind("no skin", "photographs", lambda: islice(photographs(), None, None, share)),
        Kind("no skin", "parts of photographs", lambda: islice(_parts(), None, None, share)),
        Kind("no skin", "faces: grey, 25 x 25 pixels enlarged", lambda: _grey_faces(range(0, 50, share))),
    ]


def real_kinds(data: Path) -> list[Kind]:
    """Those of the folders that are there."""
    isic, ham, clipart = data / "isic2017", data / "ham10000", data / "openclipart"
    both = [*_split(isic, "val"), *_files_of(data / "isic2018_extra" / "images")]
    found = [
        Kind("skin", "ISIC 2017 train, every fourth", lambda: _read(_split(isic, "train")[::4])),
        Kind("skin", "ISIC 2017 val", lambda: _read(_split(isic, "val"))),
        Kind("skin", "ISIC 2018 Task 1", lambda: _read(_files_of(data / "isic2018_extra" / "images"))),
        Kind("skin", "both, with empty masks", lambda: _read(both), masked=False),
        Kind(
            "skin",
            "ISIC 2017 as cameras made them",
            lambda: _read(_files_of(data / "isic_native" / "images")[::4]),
        ),
        Kind("skin", "ISIC 2020, DICOM", lambda: _read(_files_of(data / "dicom_isic2020"))),
    ]
    diagnoses = {
        "nevi, melanomas, keratoses": {"nv": 120, "mel": 120, "bkl": 120},
        "basal cell carcinomas, actinic keratoses": {"bcc": 80, "akiec": 80},
        "dermatofibromas": {"df": 100},
        "vascular lesions": {"vasc": 100},
    }
    for name, counts in diagnoses.items():
        found.append(Kind("skin", f"HAM10000 {name}", lambda counts=counts: _read(_lesions(ham, counts))))
    twenty_nine = [*_split(isic, "val")[::10], *_files_of(data / "isic2018_extra" / "images")[::9]]
    for several in (
        *(
            changes.MILD,
            changes.CIRCLE,
            changes.POOR,
            changes.GREY,
            changes.MAGENTA,
            changes.DARK,
            changes.PALE,
            changes.FRAME,
        ),
    ):
        found.append(
            Kind("changed skin", ", ".join(several), lambda several=several: _changed(twenty_nine, several))
        )
    found += [
        Kind("no skin", "clipart", lambda: _clipart(clipart, 6, drawings.colour)),
        Kind("no skin", "clipart on the colour of skin", lambda: _clipart(clipart, 30, drawings.skin_colour)),
        Kind("no skin", "DICOM test files", lambda: _read(_files_of(data / "dicom_testfiles"))),
    ]
    return found


def photographs() -> Pictures:
    """Samples of scikit-image and scikit-learn."""
    for name in PHOTOGRAPHS:
        yield name, _coloured(getattr(samples, name)())
    for number, picture in enumerate(load_sample_images().images):
        yield f"sklearn-{number}", np.asarray(picture, np.uint8)


def _coloured(picture: Image) -> Image:
    return (
        np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else np.ascontiguousarray(picture[:, :, :3])
    )


def _parts() -> Pictures:
    for name, picture in photographs():
        random = seeded("part", name)
        for number in range(3):
            side = int(min(picture.shape[:2]) * random.uniform(0.35, 0.8))
            top, left = (int(random.integers(0, length - side + 1)) for length in picture.shape[:2])
            yield f"{name}-{number}", np.ascontiguousarray(picture[top : top + side, left : left + side])


def _grey_faces(numbers: range) -> Pictures:
    faces = samples.lfw_subset()  # the first hundred are faces
    for number in numbers:
        small = (faces[number] * 255).astype(np.uint8)
        yield str(number), _coloured(np.asarray(cv2.resize(small, (200, 200), interpolation=cv2.INTER_CUBIC)))


def _drawn(name: str, draw: Callable[[np.random.Generator], Image], numbers: range) -> Callable[[], Pictures]:
    return lambda: ((str(number), draw(seeded(name, number))) for number in numbers)


def _phantoms(numbers: range) -> Pictures:
    return ((str(number), phantom(10_000 + number).image) for number in numbers)


def _hairy(numbers: range) -> Pictures:
    for number in numbers:
        yield str(number), draw_hairs(phantom(10_000 + number).clean, seeded("hair", number), count=60).rgb


def _files(numbers: range) -> Pictures:
    """Phantoms written as JPEG, PNG, DICOM, TIFF, WebP and BMP, and read again."""
    for number in numbers:
        suffix = _SUFFIXES[number % len(_SUFFIXES)]
        data = encode(phantom(20_000 + number, height=600, width=800), suffix, identity=number)
        yield f"{number}{suffix}", read_image(data, max_pixels=_PIXELS).pixels


def _files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*")) if path.suffix in {".jpg", ".png", ".dcm"}]


def _split(isic: Path, split: str) -> list[Path]:
    """A split's images; those without a mask lie in a folder for both."""
    if not isic.is_dir():
        return []
    with (isic / "labels.csv").open() as file:
        mine = {row["image_id"] for row in csv.DictReader(file) if row["split"] == split}
    rest = [path for path in _files_of(isic / "unmasked_256") if path.stem in mine]
    return sorted([*_files_of(isic / split / "images"), *rest], key=lambda path: path.stem)


def _lesions(ham: Path, counts: Mapping[str, int]) -> list[Path]:
    """So many lesions of each diagnosis, or all where there are fewer; one picture of each."""
    if not ham.is_dir():
        return []
    paths = {path.stem: path for path in _files_of(ham / "images")}
    by_lesion: dict[str, dict[str, Path]] = {dx: {} for dx in counts}
    with (ham / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if row["dx"] in counts and row["image_id"] in paths:
                by_lesion[row["dx"]].setdefault(row["lesion_id"], paths[row["image_id"]])
    chosen = []
    for dx, count in counts.items():
        mine = sorted(by_lesion[dx].values())
        chosen += [mine[number] for number in sorted(seeded("ham10000", dx).permutation(len(mine))[:count])]
    return chosen


def _read(paths: list[Path]) -> Pictures:
    """Those that are taken, decoded as a worker does."""
    for path in paths:
        try:
            yield path.stem, read_image(path.read_bytes(), max_pixels=_PIXELS).pixels
        except BadInput as error:
            print(f"left out: {path.name}: {error.reason}", flush=True)


def _changed(paths: list[Path], several: Mapping[str, changes.Change]) -> Pictures:
    for name, image in _read(paths):
        for change, made in several.items():
            yield f"{name} {change}", made(image, seeded(change, name))


def _clipart(folder: Path, step: int, ground: Callable[[np.random.Generator], tuple[int, int, int]]) -> Pictures:
    """Drawings of objects; where any colour may be behind them, half of them lie on white."""
    for path in sorted((folder / "images").rglob("*.webp"))[::step]:
        random = seeded("clipart", path.stem)
        bgra = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.float32)
        white = ground is drawings.colour and random.random() < 0.5
        behind = np.array((255, 255, 255) if white else ground(random), np.float32)
        share = bgra[:, :, 3:] / 255
        yield path.stem, (bgra[:, :, 2::-1] * share + behind * (1 - share) + 0.5).astype(np.uint8)
