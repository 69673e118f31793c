"""What benchmarks that leave out sources share: drawn pictures for tests, and how figures are printed and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from dermbatch.phantoms.phantom import phantom
from lesionnets.data.sources.isic import DIAGNOSES, Sample
from lesionnets.evaluation.figures.intervals import Figure


def tell(figures: Mapping[str, Figure], kept: Path | None = None, *, prefix: str = "") -> None:
    """Print figures, a line each, and keep them as JSON if a file is named."""
    for name, figure in figures.items():
        print(f"{prefix}{name}={str(figure).replace(' ', '')}", flush=True)
    if kept:
        kept.write_text(json.dumps({name: vars(one) for name, one in figures.items()}, indent=2))


def drawn_samples(folder: Path, count: int) -> list[Sample]:
    """Phantoms of 96 x 72 pixels with their masks, diagnoses in turn, written into a folder."""
    samples = []
    for number in range(count):
        drawn, image = phantom(number, height=72, width=96), folder / f"PH_{number}.png"
        cv2.imwrite(str(image), drawn.image[:, :, ::-1])
        cv2.imwrite(str(mask := folder / f"PH_{number}_mask.png"), 255 * drawn.lesion.astype(np.uint8))
        samples.append(Sample(image.stem, image, mask, DIAGNOSES[number % 3]))
    return samples
