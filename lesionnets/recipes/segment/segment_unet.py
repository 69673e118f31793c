"""Lesion segmentation by a small plain U-Net, trained from scratch on ISIC 2017 (CC0).

Images are squashed to 160 x 160 and augmented for other frames, dark corners, hairs and light; the loss is BCE +
Dice. It takes fifteen minutes on two CPU cores with bfloat16.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets.nets.segment.unet import UNet
from lesionnets.segmenter_training import SegmenterRecipe, overlap_step, train_segmenter
from lesionnets.training import RecipeOptions

RATE = 3e-3
WIDTH = 1.0
"""Width on a CPU."""


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing or do not fit.
    """
    recipe = SegmenterRecipe(
        name="segment_unet",
        network=UNet,
        hyper={"width": options.width_or(WIDTH)},
        optimiser=lambda model: torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=1e-2),
    )
    return train_segmenter(options, recipe, overlap_step)
