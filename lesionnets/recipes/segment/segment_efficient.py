"""Lesion segmentation by a U-Net on EfficientNet-B3 (SkinSegmentSRGAN, sections 3.2 and 4.2.1); ISIC 2017 (CC0).

As in the paper: BCE + Dice, Adam, batches of 16, batch norm and dropout in encoder and decoder. The paper starts
from ImageNet weights, but we found none for this encoder. Ours learns from scratch, and so at ten times the
paper's rate. Pictures are augmented for other frames, dark corners, hairs and light.
"""

from __future__ import annotations

from pathlib import Path

import torch

from lesionnets.nets.segment.efficient_unet import EfficientUNet
from lesionnets.segmenter_training import SegmenterRecipe, overlap_step, train_segmenter
from lesionnets.training import RecipeOptions

DROPOUT = 0.2
RATE = 1e-3
WIDTH = 0.25
"""Multiplies the channels on a CPU; 1.0 is the paper's width."""
SMOKE_DEPTH = 0.1
"""Depth of the encoder in a smoke test: one block in each stage."""


def train(options: RecipeOptions) -> Path:
    """Train on ``DATA/train``, choose on ``DATA/val``; returns the best checkpoint.

    Raises:
        UsageError: If the data folder or its parts are missing or do not fit.
    """
    recipe = SegmenterRecipe(
        name="segment_efficient",
        network=EfficientUNet,
        hyper={
            "width": options.width_or(WIDTH),
            "depth": SMOKE_DEPTH if options.smoke else 1.0,
            "dropout": DROPOUT,
        },
        optimiser=lambda model: torch.optim.Adam(model.parameters(), lr=RATE),
    )
    return train_segmenter(options, recipe, overlap_step)
