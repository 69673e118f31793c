"""Pictures of things with exact masks: the natural domain of few-shot learning.

Two layouts::

    images/<folder>/.../<image>.webp, classes.csv     drawings, RGBA; columns image, folder, title
    <class>/<n>.jpg, <class>/<n>.png                  FSS-1000 (Li et al., CVPR 2020): picture and mask

"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from dermbatch.errors import UsageError
from lesionnets.data.sources.isic import Image, read_image, read_mask, read_rows


@dataclass(frozen=True)
class Things:
    """Pictures of things in memory.

    Attributes:
        pictures: Uint8 [N, 4, S, S]: RGB and the mask, 0 to 255.
        classes: Int64 [N].
        drawn: Whether they are cut out and need a background; if not, they are photographs with their own.
    """

    pictures: Tensor
    classes: Tensor
    drawn: bool


def load_things(folder: Path, size: int, most: int | None = None) -> Things:
    """Read a folder in either layout.

    Args:
        folder: The folder; the module says which layouts there are.
        size: Side in pixels to which pictures are resized.
        most: Number of pictures to read; by default all.

    Raises:
        UsageError: If the folder is missing or empty, or a file cannot be read.
    """
    table = folder / "classes.csv"
    if table.is_file():
        rows = read_rows(table, {"image", "folder"})
        files = {path.stem: path for path in (folder / "images").rglob("*.webp")}
        found = [(row["folder"], files[row["image"]]) for row in rows if row["image"] in files]
    else:
        found = [
            (path.parent.name, path)
            for path in sorted(folder.glob("*/*.jpg"))
            if path.with_suffix(".png").is_file()
        ]
    if not found:
        raise UsageError(
            f"{folder} holds no pictures of things: neither drawings with classes.csv nor CLASS/N.jpg and .png"
        )
    found = found[:most]
    names = sorted({name for name, _ in found})
    read = _drawing if table.is_file() else _photograph
    pictures = torch.from_numpy(np.stack([read(path, size) for _, path in found])).permute(0, 3, 1, 2)
    classes = torch.tensor([names.index(name) for name, _ in found])
    return Things(pictures.contiguous(), classes, table.is_file())


def _drawing(path: Path, size: int) -> Image:
    bgra = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if bgra is None or bgra.ndim != 3 or bgra.shape[2] != 4:
        raise UsageError(f"{path} cannot be read as a drawing with transparency; replace it, or leave it out")
    small = cv2.resize(bgra, (size, size), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(small[:, :, [2, 1, 0, 3]], np.uint8)


def _photograph(path: Path, size: int) -> Image:
    mask = read_mask(path.with_suffix(".png"), size)
    return np.concatenate([read_image(path, size), mask[:, :, None]], axis=2)
