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
    """train (8) and val (6) with masks and labels, and two unmasked images of val."""
    root = tmp_path_factory.mktemp("isic")
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
