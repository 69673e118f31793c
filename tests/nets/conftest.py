"""A small folder of phantoms in the layout of the ISIC challenges."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dermbatch.phantoms.phantom import phantom
from lesionnets.data.sources.isic import DIAGNOSES

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def isic_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train (8) and val (6) with masks and labels, and two unmasked images of val; drawings of things beside."""
    root = tmp_path_factory.mktemp("domains") / "isic"
    _draw_things(root.parent / "openclipart")
    rows = ["image_id,split,diagnosis,has_mask"]
    for split, count in (("train", 8), ("val", 6)):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number in range(count):
            name = f"PH_{split}_{number}"
            drawn = phantom(number + 100 * len(split), height=96, width=128)
            cv2.imwrite(str(root / split / "images" / f"{name}.jpg"), drawn.image[:, :, ::-1])
            mask = drawn.lesion.astype(np.uint8) * 255
            cv2.imwrite(str(root / split / "masks" / f"{name}_segmentation.png"), mask)
            rows.append(f"{name},{split},{DIAGNOSES[number % 3]},1")
    (root / "unmasked_256").mkdir()
    for number in range(2):
        name = f"PH_unmasked_{number}"
        cv2.imwrite(str(root / "unmasked_256" / f"{name}.jpg"), phantom(number, height=64, width=64).image)
        rows.append(f"{name},val,nevus,0")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def _draw_things(folder: Path) -> None:
    """Six drawings of three classes, cut out."""
    (folder / "images").mkdir(parents=True)
    rows = ["image,folder,title"]
    for number in range(6):
        drawing = np.zeros((64, 64, 4), np.uint8)
        cv2.circle(drawing, (32, 32), 12 + 3 * number, (40 * number, 200 - 30 * number, 90, 255), -1)
        cv2.imwrite(str(folder / "images" / f"{number:04d}.webp"), drawing)
        rows.append(f"{number:04d},class{number % 3},thing")
    (folder / "classes.csv").write_text("\n".join(rows) + "\n")
